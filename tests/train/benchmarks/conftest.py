from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lladav.checkpoint import export
from lladav.config.schema import TokenIds
from lladav.inputs.chat import ChatTokenizer
from tests.conftest import Golden
from tests.lladav.build import tiny_config, tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """An untrained model as a checkpoint. It prefers printable tokens, so that different answers have
    different texts."""
    source, target = golden.folder / "tokenizer", tmp_path_factory.mktemp("evaluated")
    tokenizer = ChatTokenizer.load(source)
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    config.tokens = TokenIds(**vars(tokenizer.ids))
    model = tiny_model(config)
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    printable = torch.tensor([piece.isascii() and piece.decode("latin1").isprintable() for piece in pieces])
    with torch.no_grad():
        model.language.lm_head.weight[~printable] = 0
    export(model, config, target, tokenizer=source)
    return target
