"""Answers as JSON: valid, with the value of the answer, and divided into given text and values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data.digits import json_answers
from data.digits.json_answers import JsonPart, Value
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import StructureKind, StructureSpec, compile_structure
from lladav.structured.outline import Fixed
from tests.digits import shared_digits
from train.evaluation.held_out import text_of_json


@pytest.mark.parametrize(
    ("question", "answer", "value"),
    [
        ("Read the digits from left to right.", "381", "381"),
        ("How many digits are there?", "3", 3),
        ("Is the last digit even or odd?", "odd", "odd"),
        ("Read the digits of each image.", "66, 677", ["66", "677"]),
        ("Add all digits. Think step by step.", "3+8=11, 11+1=12. Answer: 12", 12),
        ("What is 3 + 4?", "7", 7),
    ],
)
def test_the_answer_is_a_value_of_its_type(question: str, answer: str, value: object):
    rng = np.random.default_rng(0)
    for _ in range(60):
        parsed = json.loads(json_answers.whole_text(json_answers.framed(question, answer, rng)))
        found = list(parsed.values())[-1] if isinstance(parsed, dict) else parsed
        as_digits = isinstance(value, str) and value.isdigit() and found == [int(each) for each in value]
        assert found == value or as_digits
    assert json.loads(json_answers.standard(question, answer)) == {"answer": value}


def test_a_form_states_true_facts():
    rng = np.random.default_rng(0)
    texts = [json_answers.whole_text(json_answers.form([3, 8, 1], rng)) for _ in range(60)]
    facts = {"count": 3, "largest": 8, "smallest": 1, "first": 3, "last": 1, "sum": 12}
    expected = {**facts, "digits": [3, 8, 1], "parity_of_sum": "even"}
    seen = [json.loads(text) for text in texts]
    assert all(form.items() <= expected.items() for form in seen)
    assert set().union(*seen) == set(expected)
    assert all(text == json.dumps(form) for text, form in zip(texts, seen, strict=True))


def test_the_values_are_what_a_model_fills_in():
    parts = json_answers.framed("How many digits are there?", "3", np.random.default_rng(3))
    values = [part for part in parts if part.is_value]
    assert [json.loads(part.text) for part in values] == [3]
    assert text_of_json(json_answers.whole_text(parts)) == "3"


READING = {"type": "string", "pattern": "^[0-9]{1,9}$"}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}


def in_an_object(schema: dict) -> dict:
    """The schema of an object with an answer."""
    return {"type": "object", "properties": {"answer": schema}, "required": ["answer"]}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (READING, "381"),
        (NUMBER, 12),
        (in_an_object(READING), {"answer": "381"}),
        (in_an_object(NUMBER), {"answer": 12}),
        ({"type": "array", "items": READING, "minItems": 2, "maxItems": 2}, ["66", "677"]),
    ],
)
def test_a_frame_gives_the_text_that_a_server_fixes(schema: dict, value: Value | dict[str, Value]):
    tokenizer = ChatTokenizer.load(shared_digits() / "tokenizer")
    spec = StructureSpec(StructureKind.json_schema, json.dumps({**schema, "additionalProperties": False}))
    served = [
        tokenizer.decode(list(piece.ids)) if isinstance(piece, Fixed) else None
        for piece in compile_structure(spec, tokenizer, 64).outline.pieces
    ]
    assert given_texts(json_answers.frame(value, np.random.default_rng(0))) == served


def given_texts(parts: list[JsonPart]) -> list[str | None]:
    """Given texts, adjacent ones joined, and None for each value."""
    found: list[str | None] = []
    for part in parts:
        if part.is_value:
            found.append(None)
        elif found and found[-1] is not None:
            found[-1] += part.text
        else:
            found.append(part.text)
    return found
