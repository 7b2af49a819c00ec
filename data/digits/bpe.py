"""A small byte-level BPE tokenizer with LLaDA's special tokens and chat template.

The system prompt, which is in every sample, is one token. A word is a token with the blank before it, so that
a model can read questions in wordings that it has never seen. Every digit and every sign is a separate token:
numbers are read digit by digit, and JSON has the same tokens whole and in parts. Newlines and the suffixes
/think and /no_think never share a token with adjacent text: the tokens of a turn's header and of a question
do not depend on what follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lladav.config.schema import TokenIds
from lladav.inputs.chat import SPECIAL_TOKENS, SYSTEM_PROMPT

SPECIAL_ORDER = ("bos", "eos", "mask", "start_header", "end_header", "eot")
MAX_VOCABULARY = 800
"""Tokens of the tiny model (``conf/model/tiny.yaml``)."""

PIECES = r"\n+| /\w+| ?\p{L}+|, |: |[^\s\p{L}]|[^\S\n]+"
"""Texts that no token crosses: line ends, suffixes, words, separators of JSON, digits and signs, blanks."""

CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


def special_ids() -> TokenIds:
    """The ids of the special tokens: the first ids, in the order of ``SPECIAL_ORDER``."""
    return TokenIds(**{role: index for index, role in enumerate(SPECIAL_ORDER)})


def train(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> Tokenizer:
    """Train a tokenizer on ``texts``; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocabulary - 1,
        show_progress=False,
        special_tokens=[SPECIAL_TOKENS[role] for role in SPECIAL_ORDER],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPT, normalized=False)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and the two other files that transformers reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": SPECIAL_TOKENS["bos"],
        "eos_token": SPECIAL_TOKENS["eos"],
        "pad_token": SPECIAL_TOKENS["eos"],
        "additional_special_tokens": [SPECIAL_TOKENS[role] for role in SPECIAL_ORDER[2:]],
    }
    _write_json(folder / "special_tokens_map.json", named)
    _write_json(folder / "tokenizer_config.json", named | _configuration())


def _configuration() -> dict:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    return {
        "added_tokens_decoder": {
            str(index): {"content": SPECIAL_TOKENS[role], **flags} for index, role in enumerate(SPECIAL_ORDER)
        },
        "mask_token": SPECIAL_TOKENS["mask"],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _write_json(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")
