"""Unsupported schemas are refused with the path of the keyword; too large ones before they take resources."""

from __future__ import annotations

from typing import Any

import pytest

from lladav.inputs.chat import ChatTokenizer
from serve.errors import ApiError
from serve.structured.json_schema import MAX_VALUES, ROOT
from tests.serve.structured.templates import INTEGER, NULL, NUMBER, STRING, array, record, template

REFUSED = [
    (record(x={**STRING, "pattern": "a+"}), ".properties.x.pattern"),
    (record(x={**STRING, "format": "date"}), ".properties.x.format"),
    (record(x={**INTEGER, "maxLength": 3}), ".properties.x.maxLength"),
    ({**record(), "patternProperties": {}}, ".patternProperties"),
    ({**record(x=STRING), "required": ["y"]}, ".required"),
    (record(x={}), ".properties.x"),
    (record(x=True), ".properties.x"),
    ({"type": "file"}, ".type"),
    ({"type": ["string", "integer"]}, ".type"),
    ({"type": []}, ""),
    ({**STRING, "minLength": -1}, ".minLength"),
    ({**STRING, "minLength": 3, "maxLength": 2}, ".minLength"),
    ({**NUMBER, "multipleOf": 0.1}, ".multipleOf"),
    ({**NUMBER, "minimum": "1"}, ".minimum"),
    ({**NUMBER, "minimum": 10**301}, ".minimum"),
    ({**INTEGER, "minimum": 2, "maximum": 1}, ""),
    ({**INTEGER, "exclusiveMinimum": 1, "exclusiveMaximum": 2}, ""),
    ({**NUMBER, "exclusiveMinimum": 1, "maximum": 1}, ""),
    ({**NUMBER, "exclusiveMinimum": 0, "exclusiveMaximum": 5e-324}, ""),
    ({"enum": [{"a": 1}]}, ".enum"),
    ({"type": "string", "enum": [1]}, ".enum"),
    ({"const": [1]}, ".const"),
    ({"enum": ["a"], "maxLength": 3}, ".maxLength"),
    (array(STRING, minItems=3, maxItems=2), ".minItems"),
    ({**array(STRING), "uniqueItems": True}, ".uniqueItems"),
    ({"type": "array"}, ".items"),
    (array(record(a=STRING), maxItems=2), ".items"),
    (array(array(STRING)), ".items"),
    ({"anyOf": [STRING, INTEGER]}, ".anyOf"),
    ({"anyOf": [STRING, {**NULL, "not": {}}]}, ".anyOf[1].not"),
    ({"anyOf": [{**STRING, "pattern": "a"}, NULL]}, ".anyOf[0].pattern"),
    ({"oneOf": [{"enum": ["a", None]}, NULL]}, ".oneOf"),
    ({"allOf": [STRING]}, ""),
    ({"anyOf": [STRING, NULL], "minLength": 1}, ".minLength"),
    ({"$ref": "https://example.org/schema"}, ".$ref"),
    ({"$ref": "#/$defs/A"}, ".$ref"),
    ({"$ref": "#"}, ".$ref"),
    ({**record(x={"$ref": "#/$defs/A"}), "$defs": {"A": {**STRING, "pattern": "a"}}}, ".$defs.A.pattern"),
    ({"$defs": {"A": record(a={"$ref": "#/$defs/A"})}, "$ref": "#/$defs/A"}, ".$defs.A.properties.a.$ref"),
    ({"const": "\ud800"}, ""),
    ({"const": float("nan")}, ""),
    ("string", ""),
]


@pytest.mark.parametrize(("schema", "path"), REFUSED)
def test_an_unsupported_keyword_is_refused_with_its_path(schema: Any, path: str) -> None:
    with pytest.raises(ApiError) as error:
        template(schema)
    assert (error.value.status, error.value.code) == (400, "unsupported_schema")
    assert error.value.param == ROOT + path
    assert error.value.message.startswith(ROOT + path)
    assert "\n" not in error.value.message


def doubling(levels: int) -> dict[str, Any]:
    """A small schema that expands to 2^levels values."""
    refs = {
        f"D{n}": record(a={"$ref": f"#/$defs/D{n + 1}"}, b={"$ref": f"#/$defs/D{n + 1}"})
        for n in range(levels)
    }
    return {"$defs": {**refs, f"D{levels}": NULL}, "$ref": "#/$defs/D0"}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for _ in range(levels):
        schema = record(a=schema)
    return schema


@pytest.mark.parametrize(
    "schema", [doubling(20), deep(40), deep(5000), record(**{f"{n}": NULL for n in range(MAX_VALUES)})]
)
def test_too_large_schemas_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as error:
        template(schema)
    assert error.value.code == "unsupported_schema"


def test_the_error_for_a_short_canvas_says_how_many_tokens_are_needed() -> None:
    schema = record(name=STRING, age=INTEGER)
    needed = template(schema).length
    assert template(schema, needed).length == needed
    with pytest.raises(ApiError, match=f"takes {needed} tokens and max_tokens is {needed - 1}") as error:
        template(schema, needed - 1)
    assert (error.value.status, error.value.code) == (400, "schema_too_long")


@pytest.mark.parametrize(
    "schema",
    [
        array(STRING, minItems=2**31 - 1),
        array(
            array(array(NULL, minItems=999, maxItems=999), minItems=999, maxItems=999),
            minItems=999,
            maxItems=999,
        ),
        {**STRING, "maxLength": 2**31 - 1},
    ],
)
def test_a_huge_canvas_is_refused_quickly(schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"takes .* tokens and max_tokens is 512"):
        template(schema, 512)


LONG = "x" * 1000


@pytest.mark.parametrize(
    "schema",
    [
        {"const": LONG * 10},
        record(**{LONG * 10: NULL}),
        array({"const": LONG}, minItems=10, maxItems=10),
        {"enum": [LONG, *map(str, range(9))]},
        {**array({"$ref": "#/$defs/A"}, minItems=10, maxItems=10), "$defs": {"A": {"const": LONG}}},
    ],
)
def test_text_that_is_longer_than_any_canvas_is_not_encoded(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ChatTokenizer.encode

    def encode_short(tokenizer: ChatTokenizer, text: str) -> list[int]:
        assert len(text) < 1000
        return encode(tokenizer, text)

    monkeypatch.setattr(ChatTokenizer, "encode", encode_short)
    with pytest.raises(ApiError, match="more than 10000 characters") as error:
        template(schema, characters=10_000)
    assert (error.value.status, error.value.code) == (400, "context_length_exceeded")
    assert error.value.param == ROOT
