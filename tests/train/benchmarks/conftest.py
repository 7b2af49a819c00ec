from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lladav.checkpoint import export
from lladav.config.schema import ModelConfig, TokenIds
from lladav.inputs.chat import ChatTokenizer
from tests.conftest import Golden
from tests.lladav.build import tiny_ar_config, tiny_config, tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """An untrained masked-diffusion model as a checkpoint."""
    return checkpoint(tmp_path_factory.mktemp("evaluated"), golden.folder / "tokenizer", tiny_config)


@pytest.fixture(scope="session")
def next_token_folder(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """An untrained model that predicts the next token, as a checkpoint."""
    return checkpoint(tmp_path_factory.mktemp("evaluated"), golden.folder / "tokenizer", tiny_ar_config)


def checkpoint(target: Path, source: Path, config_of: Callable[..., ModelConfig]) -> Path:
    """A checkpoint with the tokenizer in ``source``. The model prefers printable tokens, so that different
    answers have different texts."""
    tokenizer = ChatTokenizer.load(source)
    config = config_of(vocab_size=tokenizer.vocab_size)
    config.tokens = TokenIds(**vars(tokenizer.ids))
    model = tiny_model(config)
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    printable = torch.tensor([piece.isascii() and piece.decode("latin1").isprintable() for piece in pieces])
    with torch.no_grad():
        model.language.lm_head.weight[~printable] = 0
    export(model, config, target, tokenizer=source)
    return target
