"""Structured output: the JSON validates, whatever tokens are decoded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from serve.structured import JsonTemplate
from tests.lladav.build import text_sample, tiny_config, tiny_model
from tests.serve.structured.templates import (
    BOOLEAN,
    EOS,
    EOT,
    INTEGER,
    NULL,
    NUMBER,
    STRING,
    TOKENIZER,
    VALUE_TOKENS,
    array,
    canvas,
    record,
    slots,
    template,
)


def written(schema: object, *texts: str | list[int]) -> Any:
    """The value that is read from these slot texts; it validates."""
    made = template(schema)
    value = json.loads(made.render(canvas(made, *texts)))
    jsonschema.validate(value, schema)  # pyright: ignore[reportArgumentType]
    return value


def test_the_fixed_parts_are_on_the_canvas() -> None:
    made = template(record(name=STRING, age=INTEGER, kind={"const": "man"}))
    texts = TOKENIZER.decode([made.infill.get(position, EOT) for position in range(made.length)])
    assert texts == '{"name": "", "age": , "kind": "man"}'
    assert [len(positions) for positions in slots(made)] == [VALUE_TOKENS, 10]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (STRING, "The sum", "The sum"),
        (STRING, "", ""),
        (STRING, 'sum", "', "sum"),
        (STRING, 'a\\"b', 'a"b'),
        (STRING, "a\\nb", "a\nb"),
        (STRING, "a\\qb", "a\\qb"),
        (STRING, " sum ", "sum"),
        (STRING, [*TOKENIZER.encode("a"), EOT, *TOKENIZER.encode("b")], "a"),
        (STRING, [*TOKENIZER.encode("a"), EOS, *TOKENIZER.encode("b")], "a"),
        (STRING, [*TOKENIZER.encode("ag"), TOKENIZER.encode("é")[0]], "ag"),
        ({**STRING, "maxLength": 2}, "12", "12"),
        ({**STRING, "maxLength": 2}, TOKENIZER.encode(" the"), "th"),
        ({**STRING, "minLength": 3}, "a", "a  "),
        (INTEGER, "-12", -12),
        (INTEGER, "007", 7),
        (INTEGER, "", 0),
        ({**INTEGER, "minimum": 3}, "1", 3),
        ({**INTEGER, "exclusiveMinimum": 3, "maximum": 9}, "1", 4),
        ({**INTEGER, "exclusiveMaximum": 8.5}, "77", 8),
        ({**INTEGER, "multipleOf": 5, "minimum": 1}, "12", 10),
        ({**INTEGER, "multipleOf": 5, "minimum": 1}, "0", 5),
        (NUMBER, "12.5", 12.5),
        (NUMBER, "12.", 12),
        (NUMBER, "-", 0),
        ({**NUMBER, "minimum": 0, "maximum": 1}, "1.5", 1),
        ({**NUMBER, "exclusiveMinimum": 0}, "0", 1e-6),
        (BOOLEAN, "true", True),
        (BOOLEAN, "fals", False),
        ({"enum": ["user", "assistant"]}, "assistan", "assistant"),
        ({"enum": [1, "user", None, True, 2.5]}, "null", None),
        ({"enum": [1, "user", None, True, 2.5]}, '"user"', "user"),
        ({"type": "string", "enum": [1, "user", "lan"]}, "lan", "lan"),
        ({"type": ["string", "null"]}, "sum", "sum"),
        ({"type": ["string", "null"]}, "", None),
        ({"anyOf": [INTEGER, NULL]}, "12", 12),
        ({"oneOf": [INTEGER, NULL]}, "", None),
        ({"anyOf": [{"enum": ["a", "b"]}, NULL]}, "null", None),
    ],
)
def test_values_are_read_from_their_slots(schema: dict[str, Any], text: Any, value: Any) -> None:
    found = written(schema, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (NULL, None),
        ({"const": 3}, 3),
        ({"enum": ["one"]}, "one"),
        ({"type": "boolean", "enum": [True, 1]}, True),
        ({"type": "object"}, {}),
        ({**STRING, "maxLength": 0}, ""),
        (array(NULL, minItems=2, maxItems=2), [None, None]),
        (array(STRING, maxItems=0), []),
    ],
)
def test_constants_need_no_slot(schema: dict[str, Any], value: Any) -> None:
    assert written(schema) == value


@pytest.mark.parametrize(
    ("schema", "texts", "value"),
    [
        (array(STRING, maxItems=3), ["a", "", ""], ["a"]),
        (array(STRING, maxItems=3), ["a", "", "b"], ["a", "b"]),
        (array(STRING, minItems=2, maxItems=3), ["a", "", ""], ["a", ""]),
        (array(INTEGER), ["1", "2", "", ""], [1, 2]),
        (array(INTEGER, minItems=6), ["1", "2", "3", "4", "5", "6"], [1, 2, 3, 4, 5, 6]),
        (array(BOOLEAN, maxItems=3), ["true", "false", ""], [True, False]),
        (array({"const": "a"}, maxItems=2), ["a", ""], ["a"]),
        (array(record(a=INTEGER), minItems=2, maxItems=2), ["1", "2"], [{"a": 1}, {"a": 2}]),
        (array({"type": ["integer", "null"]}, minItems=1, maxItems=2), ["", "2"], [None, 2]),
    ],
)
def test_empty_items_are_dropped(schema: Any, texts: list[str], value: Any) -> None:
    assert written(schema, *texts) == value


def test_objects_nest_and_refer_to_definitions() -> None:
    """A schema as pydantic writes it."""
    point = {"type": "object", "title": "Point", "properties": {"x": INTEGER}, "required": ["x"]}
    schema = {
        "$defs": {"Point": point, "Kind": {"enum": ["a", "b"], "type": "string"}},
        "type": "object",
        "properties": {
            "at": {"$ref": "#/$defs/Point", "description": "where"},
            "kind": {"anyOf": [{"$ref": "#/$defs/Kind"}, NULL], "default": None},
            "pattern": STRING,
        },
        "required": ["at"],
        "additionalProperties": False,
    }
    assert written(schema, "3", '"b"', "x") == {"at": {"x": 3}, "kind": "b", "pattern": "x"}


def test_numbers_and_enums_restrict_the_ids() -> None:
    def texts(made: JsonTemplate) -> list[set[str]]:
        return [{TOKENIZER.decode([i]) for i in ids} for _, ids in sorted(made.allowed.items())]

    digits = {*"0123456789", "12"}
    whole = texts(template({**INTEGER, "minimum": 0, "maximum": 99}))
    assert whole == [digits, digits | {""}]
    real = texts(template({**NUMBER, "minimum": -9, "maximum": 9}))
    assert real[:2] == [digits | {"-"}, digits | {".", ""}]
    assert texts(template({"enum": ["user", "sum"]})) == [{"user", "s"}, {"", "um"}]
    optional = texts(template(array({**INTEGER, "minimum": 0, "maximum": 9}, maxItems=1)))
    assert optional == [digits | {""}]
    assert texts(template(STRING)) == []


def test_tokens_that_all_alternatives_share_are_fixed() -> None:
    made = template({"enum": ["a1", "a2"]})
    assert [len(positions) for positions in slots(made)] == [1]


@pytest.mark.parametrize(
    ("limits", "positions"),
    [
        ({}, VALUE_TOKENS),
        ({"maxLength": 4}, 4),
        ({"maxLength": 12}, VALUE_TOKENS),
        ({"maxLength": 60}, 20),
        ({"minLength": 30}, 10),
    ],
)
def test_slots_of_strings_follow_their_length(limits: dict[str, int], positions: int) -> None:
    assert [len(run) for run in slots(template({**STRING, **limits}))] == [positions]


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    values = st.one_of(st.none(), st.booleans(), st.integers(-99, 999), st.floats(-9, 9), st.text(max_size=5))
    return st.one_of(
        st.sampled_from([BOOLEAN, NULL, STRING, INTEGER, NUMBER, {"type": ["number", "null"]}]),
        st.builds(lambda value: {"const": value}, values),
        st.builds(lambda chosen: {"enum": chosen}, st.lists(values, min_size=1, max_size=4)),
        st.builds(
            lambda least, more: {**STRING, "minLength": least, "maxLength": least + more}, COUNTS, COUNTS
        ),
        numbers(),
    )


COUNTS = st.integers(0, 3)


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    """Numbers whose bounds are at least 2 apart; multiples have one bound at most."""
    kind = draw(st.sampled_from(["integer", "number"]))
    low = draw(st.integers(-50, 50) | st.floats(-50, 50))
    bounds = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + draw(st.floats(2, 300)),
    }
    kept = draw(st.sets(st.sampled_from(list(bounds))))
    multiple = draw(st.none() | st.integers(1, 9)) if len(kept) < 2 else None
    return {"type": kind, **{k: bounds[k] for k in kept}, **({"multipleOf": multiple} if multiple else {})}


@st.composite
def nested(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["object", "array", "tuple", "optional"]))
    if kind == "object":
        return record(**draw(st.dictionaries(st.text(max_size=4), inner, max_size=3)))
    if kind == "array":
        least = draw(COUNTS)
        return array(draw(scalars()), minItems=least, maxItems=least + draw(COUNTS))
    if kind == "tuple":
        count = draw(COUNTS)
        return array(draw(inner), minItems=count, maxItems=count)
    return {"anyOf": [draw(inner.filter(lambda schema: schema != NULL)), NULL]}


SCHEMAS = st.recursive(scalars(), nested, max_leaves=6)
ANY_ID = st.integers(0, TOKENIZER.vocab_size - 1)
LIKELY = st.sampled_from([EOT, EOS, *TOKENIZER.encode('-.012\\"u e')])


def restricted(made: JsonTemplate, tokens: Mapping[int, int]) -> Iterable[int]:
    """The canvas as the engine would decode it: with the fixed tokens, and only allowed ids."""
    for position in range(made.length):
        token = made.infill[position] if position in made.infill else tokens[position]
        allowed = made.allowed.get(position)
        yield allowed[token % len(allowed)] if allowed else token


@given(SCHEMAS, st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_tokens_become_json_that_validates(schema: dict[str, Any], data: st.DataObject) -> None:
    """Tokens that the engine can unmask, and others."""
    made = template(schema)
    positions = [position for run in slots(made) for position in run]
    assert set(made.allowed) <= set(positions)
    drawn = data.draw(st.lists(ANY_ID | LIKELY, min_size=len(positions), max_size=len(positions)))
    tokens = dict(zip(positions, drawn, strict=True))
    for decoded in (
        list(restricted(made, tokens)),
        [{**made.infill, **tokens}[position] for position in range(made.length)],
        [],
    ):
        text = made.render(decoded)
        value = json.loads(text)
        assert text == json.dumps(value, ensure_ascii=False)
        jsonschema.Draft202012Validator(schema).validate(value)
        if decoded:
            assert b"".join(made.bytes_of_tokens(decoded)).decode() == text


def test_tokens_get_the_bytes_that_they_stand_for() -> None:
    made = template(record(name=STRING, age={**INTEGER, "maximum": 50}, tags=array(STRING, maxItems=2)))
    tokens = canvas(made, "sum", "77", "a", "")
    shares = made.bytes_of_tokens([*tokens, EOT])
    assert b"".join(shares).decode() == made.render(tokens) == '{"name": "sum", "age": 50, "tags": ["a"]}'
    first, second, third, _ = slots(made)
    assert b"".join(shares[position] for position in first) == b"sum"
    assert b"".join(shares[position] for position in second) == b"50"
    assert b"".join(shares[position] for position in third) == b"a"
    assert [shares[position] for position in made.infill][:3] == [
        TOKENIZER.token_bytes(tokens[position]) for position in made.infill
    ][:3]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"threshold": 0.5, "refresh_interval": 4}])
def test_a_model_fills_in_a_template(sampling: dict[str, Any]) -> None:
    config = replace(tiny_config(vocab_size=TOKENIZER.vocab_size), tokens=TOKENIZER.ids)
    schema = record(
        name={**STRING, "maxLength": 8},
        age={**INTEGER, "minimum": 0, "maximum": 150},
        score=NUMBER,
        kind={"enum": ["user", "assistant", "system"]},
        tags=array(STRING, maxItems=2),
    )
    made = template(schema)
    length = -(-made.length // 8) * 8
    rest = dict.fromkeys(range(made.length, length), EOT)
    options = DecodingOptions.for_chat(
        TOKENIZER.ids,
        max_tokens=length,
        block_length=8,
        stop=(),
        infill=made.infill | rest,
        allowed=made.allowed,
        **sampling,
    )
    answer = decode(tiny_model(config, std=0.3), [text_sample("p", 6)], options)[0]
    assert len(answer.tokens) == length
    assert all(answer.tokens[position] in ids for position, ids in made.allowed.items())
    assert all(answer.tokens[position] == token for position, token in made.infill.items())
    jsonschema.validate(json.loads(made.render(answer.tokens)), schema)
