"""Settings of an answer that has a structure, from those of an answer without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lladav.decoding.params import DecodingOptions
from lladav.decoding.structured_options import with_structure
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from tests.conftest import Golden


@pytest.fixture(scope="module")
def structure(golden: Golden) -> Structure:
    """Answers of at most 20 tokens."""
    tokenizer = ChatTokenizer.load(golden.folder / "tokenizer")
    return replace(compile_structure(StructureSpec(StructureKind.json_object), tokenizer, 128), max_tokens=20)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"max_tokens": 20, "block_length": None}),
        ({"max_tokens": 128, "block_length": 64}, {"max_tokens": 20, "block_length": 20}),
        ({"block_length": 8}, {"block_length": 8}),
        ({"steps": 128}, {"tokens_per_step": 1, "steps": None}),
        ({"steps": 6}, {"tokens_per_step": 4, "steps": None}),
        ({"threshold": 0.5}, {"threshold": 0.5}),
        ({"stop": ((1,),), "no_repeat_ngram": 2}, {"stop": (), "no_repeat_ngram": None}),
    ],
)
def test_the_longest_answer_decides(
    structure: Structure, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    options = DecodingOptions(**with_structure(settings, structure))
    assert options.outline is structure.outline
    assert {name: getattr(options, name) for name in expected} == expected
