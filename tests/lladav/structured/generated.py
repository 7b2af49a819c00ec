"""Generated schemas, each with a value that it permits where one is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

SMALL = st.integers(0, 3)
NAMES = st.text('abcxyz é"\\', min_size=1, max_size=4)
PATTERNS = {
    "^[a-c]{2,4}$": "ab",
    "[0-9]+": "x1",
    "^(yes|no)$": "no",
    "^\\d{4}-\\d{2}$": "2024-01",
    "é$": "é",
    "^\\S+@\\S+$": "a@b",
}
FORMATS = {
    "date": "2024-02-29",
    "time": "10:20:30Z",
    "date-time": "2024-02-29T10:20:30Z",
    "email": "a@example.org",
    "ipv4": "127.0.0.1",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}
"""Expressions and formats, each with a text that has it."""


@dataclass(frozen=True)
class Example:
    """A schema, and a value that may be valid: a validator decides."""

    schema: Any
    value: Any


Examples = st.SearchStrategy[Example]


POINTS = st.just(Example({"$ref": "#/$defs/point"}, {"x": 1}))
DEFINITION = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def examples() -> Examples:
    """Schemas of all kinds, nested a few levels; some refer to a definition or to themselves."""
    return st.recursive(scalars() | POINTS, compound, max_leaves=6).map(_with_definition) | trees()


def scalars() -> Examples:
    """Schemas of texts, numbers, constants and null."""
    values = st.none() | st.booleans() | st.integers(-99, 999) | st.floats(-9, 9) | st.text(max_size=5)
    constants = st.lists(values, min_size=1, max_size=4)
    return st.one_of(
        st.sampled_from(
            [Example({"type": "boolean"}, True), Example({"type": "null"}, None), Example(True, 1)]
        ),
        constants.map(lambda chosen: Example({"enum": chosen}, chosen[-1])),
        values.map(lambda value: Example({"const": value}, value)),
        st.sampled_from([*PATTERNS]).map(lambda p: Example({"type": "string", "pattern": p}, PATTERNS[p])),
        st.sampled_from([*FORMATS]).map(lambda f: Example({"type": "string", "format": f}, FORMATS[f])),
        st.builds(_text, SMALL, SMALL),
        numbers(),
    )


@st.composite
def numbers(draw: st.DrawFn) -> Example:
    """Integers and numbers with some bounds and steps."""
    low, width = draw(st.integers(-50, 50) | st.floats(-50, 50)), draw(SMALL)
    limits = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + width,
        "multipleOf": draw(st.sampled_from([1, 2, 3, 0.5, 0.01])),
    }
    kept = draw(st.sets(st.sampled_from(list(limits))))
    kind = draw(st.sampled_from(["integer", "number", ["number", "null"], ["integer", "string"]]))
    return Example({"type": kind, **{key: limits[key] for key in kept}}, round(low + width / 2))


def compound(inner: Examples) -> Examples:
    """Schemas that contain others."""
    kinds: list[Callable[[Examples], Examples]] = [objects, arrays, tuples, unions, conditions]
    return st.one_of(*(kind(inner) for kind in kinds))


@st.composite
def objects(draw: st.DrawFn, inner: Examples) -> Example:
    """Objects with required and optional properties, limits and dependencies."""
    listed = draw(st.dictionaries(NAMES, inner, max_size=4))
    names = list(listed)
    required = [name for name in names if draw(st.booleans())]
    present = [name for name in names if name in required or draw(st.booleans())]
    schema = {
        "type": "object",
        "properties": {name: each.schema for name, each in listed.items()},
        "required": required,
        "additionalProperties": draw(st.sampled_from([False, True, {"type": "integer"}])),
        "minProperties": draw(st.integers(0, len(present))),
        "dependentRequired": {present[0]: present[-1:]} if present else {},
    }
    kept = draw(st.sets(st.sampled_from(list(schema)), min_size=2)) | {"type"}
    return Example(
        {key: value for key, value in schema.items() if key in kept},
        {name: listed[name].value for name in present},
    )


@st.composite
def arrays(draw: st.DrawFn, inner: Examples) -> Example:
    """Arrays of one kind of items with limits."""
    item, least, more = draw(inner), draw(SMALL), draw(SMALL)
    limits = {"minItems": least, "maxItems": least + more, "uniqueItems": True, "contains": item.schema}
    kept = draw(st.sets(st.sampled_from(list(limits))))
    schema = {"type": "array", "items": item.schema, **{key: limits[key] for key in kept}}
    return Example(schema, [item.value] * (least + more))


@st.composite
def tuples(draw: st.DrawFn, inner: Examples) -> Example:
    """Arrays whose items have places."""
    places = draw(st.lists(inner, min_size=1, max_size=3))
    rest = draw(st.sampled_from([{}, {"items": False}, {"items": {"type": "integer"}}]))
    schema = {"type": "array", "prefixItems": [each.schema for each in places], **rest}
    if draw(st.booleans()):
        schema["minItems"] = len(places)
    return Example(schema, [each.value for each in places])


@st.composite
def unions(draw: st.DrawFn, inner: Examples) -> Example:
    """Alternatives, exclusive alternatives and conjunctions."""
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    kind = draw(st.sampled_from(["anyOf", "oneOf", "allOf"]))
    return Example({kind: [each.schema for each in parts]}, draw(st.sampled_from(parts)).value)


@st.composite
def conditions(draw: st.DrawFn, inner: Examples) -> Example:
    """A negation, or a condition with its consequences."""
    first, second = draw(inner), draw(inner)
    schemas = [
        {"not": first.schema},
        {"if": first.schema, "then": second.schema},
        {"if": first.schema, "else": second.schema},
    ]
    return Example(draw(st.sampled_from(schemas)), draw(st.sampled_from([first.value, second.value])))


@st.composite
def trees(draw: st.DrawFn) -> Example:
    """A recursive schema: a node with a value, and perhaps children."""
    value, several = draw(scalars()), draw(st.booleans())
    child = {"$ref": "#/$defs/node"}
    children = {"type": "array", "items": child} if several else {"anyOf": [child, {"type": "null"}]}
    node = {
        "type": "object",
        "properties": {"value": value.schema, "next": children},
        "required": ["value"],
        "additionalProperties": False,
    }
    leaf = {"value": value.value}
    return Example({"$defs": {"node": node}, **child}, {**leaf, "next": [leaf] if several else leaf})


def _text(least: int, more: int) -> Example:
    return Example({"type": "string", "minLength": least, "maxLength": least + more}, "é" * least)


def _with_definition(example: Example) -> Example:
    """The example with the definition that a reference may name."""
    if not isinstance(example.schema, dict):
        return example
    return Example({**example.schema, "$defs": {"point": DEFINITION}}, example.value)
