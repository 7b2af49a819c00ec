"""The part of JSON Schema that structured output keeps its word on, read into shapes.

A keyword that is not understood is refused by its path, never passed over: an answer that comes back has
to validate. What merely describes (``title``, ``default``) changes nothing, nor does
``additionalProperties``, since no property is written but those that are listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from serve.errors import ApiError
from serve.structured.schema_types import (
    Choice,
    Items,
    Number,
    ObjectType,
    Scalar,
    Scalars,
    Shape,
    Text,
    or_null,
    takes_null,
)

ROOT = "response_format.json_schema.schema"
DESCRIBING = {
    *("title", "description", "default", "examples", "additionalProperties"),
    *("$schema", "$comment", "$defs", "definitions"),
}
ITEMS = 4
"""Items of an array that names no ``maxItems``, at most, unless ``minItems`` asks for more."""
DEEPEST = 32
"""Levels of a schema, so that none exhausts the stack."""
MOST = 2000
"""Values of a schema, references written out: a few lines of references can stand for millions."""
COUNTABLE = 2**31 - 1
LARGEST = 1e300
"""Bounds of numbers, so that there is room behind them."""
NUDGE = Fraction(1, 10**6)
"""How far inside an exclusive bound the nearest real number is taken to be, relative to bounds above 1."""


def read_schema(schema: object) -> Shape:
    """The shape that a schema asks for; raises ``ApiError`` for anything that this module does not know."""
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise refused(ROOT, "is not plain JSON: infinite, too deep, or text that is not Unicode") from None
    return _Reader(schema).shape(schema, ROOT)


def refused(path: str, why: str) -> ApiError:
    """The error for the keyword at a path."""
    return ApiError(400, f"{path} {why}", code="unsupported_schema", param=path)


class _Reader:
    """Reads one schema. ``inside`` are the paths of the schemas around one, to find recursion by."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._count = 0
        self._kinds: dict[str, Callable[[dict[str, Any], str, tuple[str, ...]], Shape]] = {
            "object": self._record,
            "array": self._items,
            "string": _text,
            "integer": _number,
            "number": _number,
            "boolean": _boolean,
            "null": _null,
        }

    def shape(self, schema: object, path: str, inside: tuple[str, ...] = ()) -> Shape:
        if not isinstance(schema, dict):
            raise refused(path, "is not a schema; write an object with a type")
        self._count += 1
        if len(inside) >= DEEPEST or self._count > MOST:
            raise refused(path, f"is beyond {DEEPEST} levels or {MOST} values; make the schema smaller")
        inside = (*inside, path)
        if "$ref" in schema:
            return self._referred(schema, path, inside)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._optional(schema, union, path, inside)
        if "enum" in schema or "const" in schema:
            return _choice(schema, path)
        return self._typed(schema, path, inside)

    def _referred(self, schema: dict[str, Any], path: str, inside: tuple[str, ...]) -> Shape:
        _only(schema, path, "$ref")
        where, target = f"{path}.$ref", schema["$ref"]
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise refused(where, "is not a local reference; use #/$defs/NAME")
        found, place = self._root, ROOT
        for name in (unquote(part).replace("~1", "/").replace("~0", "~") for part in target.split("/")[1:]):
            if not isinstance(found, dict) or name not in found:
                raise refused(where, f"refers to {target}, which is not there")
            found, place = found[name], f"{place}.{name}"
        if place in inside:
            raise refused(where, "is recursive; write the levels out")
        return self.shape(found, place, inside)

    def _optional(self, schema: dict[str, Any], union: str, path: str, inside: tuple[str, ...]) -> Shape:
        """A union of one schema and null, as pydantic writes Optional."""
        _only(schema, path, union)
        where, members = f"{path}.{union}", schema[union]
        if not isinstance(members, list):
            raise refused(where, "is not a list")
        proper = [n for n, member in enumerate(members) if not _is_null(member)]
        if len(proper) != 1 or len(members) > 2:
            raise refused(where, "is supported for one schema and null alone")
        shape = self.shape(members[proper[0]], f"{where}[{proper[0]}]", inside)
        if len(members) == 1:
            return shape
        _only(members[1 - proper[0]], f"{where}[{1 - proper[0]}]", "type")
        if union == "oneOf" and takes_null(shape):
            raise refused(where, "has null twice, which oneOf forbids; use anyOf")
        return or_null(shape)

    def _typed(self, schema: dict[str, Any], path: str, inside: tuple[str, ...]) -> Shape:
        kinds = _types(schema, path)
        proper = [kind for kind in kinds if kind != "null"] or ["null"]
        if len(proper) > 1 or proper[0] not in self._kinds:
            raise refused(
                f"{path}.type", f"is not supported; use one of {', '.join(self._kinds)}, with or without null"
            )
        shape = self._kinds[proper[0]](schema, path, inside)
        return or_null(shape) if "null" in kinds else shape

    def _record(self, schema: dict[str, Any], path: str, inside: tuple[str, ...]) -> Shape:
        _only(schema, path, "type", "properties", "required")
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise refused(f"{path}.properties", "is not an object")
        if not isinstance(required, list) or any(name not in properties for name in map(str, required)):
            raise refused(f"{path}.required", "names properties that are not described; add them")
        where = f"{path}.properties"
        return ObjectType(
            {name: self.shape(each, f"{where}.{name}", inside) for name, each in properties.items()}
        )

    def _items(self, schema: dict[str, Any], path: str, inside: tuple[str, ...]) -> Shape:
        _only(schema, path, "type", "items", "minItems", "maxItems")
        least = _count(schema, "minItems", path) or 0
        most = _count(schema, "maxItems", path)
        most = max(ITEMS, least) if most is None else most
        if least > most:
            raise refused(f"{path}.minItems", "is above maxItems; swap them")
        item = self.shape(schema.get("items"), f"{path}.items", inside)
        if least != most and not isinstance(item, Scalars):
            raise refused(f"{path}.items", "are objects or arrays: set minItems and maxItems to one number")
        return Items(item, least, most)


def _only(schema: dict[str, Any], path: str, *keywords: str) -> None:
    for key in schema:
        if key not in keywords and key not in DESCRIBING:
            raise refused(f"{path}.{key}", f"is not supported: leave the keyword {key} out")


def _types(schema: dict[str, Any], path: str) -> list[str]:
    kinds = schema.get("type")
    if not kinds:
        raise refused(path, "has no type; add one")
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else [str(kinds)]


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _count(schema: dict[str, Any], key: str, path: str) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNTABLE:
        raise refused(f"{path}.{key}", f"is not supported: use a whole number from 0 to {COUNTABLE}")
    return value


def _choice(schema: dict[str, Any], path: str) -> Shape:
    _only(schema, path, "enum", "const", "type")
    key = "enum" if "enum" in schema else "const"
    values = schema["enum"] if key == "enum" else [schema["const"]]
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        raise refused(f"{path}.{key}", "is supported for texts, numbers, true, false and null alone")
    if "const" in schema:
        values = [value for value in values if _same(value, schema["const"])]
    if "type" in schema:
        kinds = _types(schema, path)
        values = [value for value in values if any(_is_of(value, kind) for kind in kinds)]
    if not values:
        raise refused(f"{path}.{key}", "leaves no value of its type to choose")
    return Choice(tuple(values))


def _same(a: Any, b: Any) -> bool:
    """As JSON: true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _is_of(value: Scalar, kind: str) -> bool:
    if value is None or isinstance(value, bool):
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, str):
        return kind == "string"
    return kind == "number" or (kind == "integer" and value == int(value))


def _text(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> Shape:
    _only(schema, path, "type", "minLength", "maxLength")
    shortest, longest = _count(schema, "minLength", path) or 0, _count(schema, "maxLength", path)
    if longest is not None and shortest > longest:
        raise refused(f"{path}.minLength", "is above maxLength; swap them")
    return Text(shortest, longest)


def _boolean(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> Shape:
    _only(schema, path, "type")
    return Choice((True, False))


def _null(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> Shape:
    _only(schema, path, "type")
    return Choice((None,))


def _number(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> Shape:
    _only(schema, path, "type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    multiple = _count(schema, "multipleOf", path)
    if multiple == 0:
        raise refused(f"{path}.multipleOf", "is 0; use a whole number from 1 on")
    if multiple is None and "integer" in _types(schema, path):
        multiple = 1
    bounds = _bounds(schema, path)
    number = _real(*bounds) if multiple is None else _whole(*bounds, multiple)
    if number is None:
        raise refused(path, "has bounds with no number between them")
    return number


def _bounds(schema: dict[str, Any], path: str) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """The tightest lower and upper bound, and whether it is itself excluded."""
    low, high = [(-math.inf, False)], [(math.inf, False)]
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if (value := schema.get(key)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
            raise refused(f"{path}.{key}", f"is not a number of at most {LARGEST}")
        (low if key.lower().endswith("minimum") else high).append((value, key.startswith("exclusive")))
    return max(low), min(high, key=lambda bound: (bound[0], not bound[1]))


def _whole(low: tuple[float, bool], high: tuple[float, bool], multiple: int) -> Number | None:
    first: float = low[0]
    last: float = high[0]
    if math.isfinite(first):
        times = Fraction(first) / multiple
        first = (math.floor(times) + 1 if low[1] else math.ceil(times)) * multiple
    if math.isfinite(last):
        times = Fraction(last) / multiple
        last = (math.ceil(times) - 1 if high[1] else math.floor(times)) * multiple
    return Number(first, last, multiple) if first <= last else None


def _real(low: tuple[float, bool], high: tuple[float, bool]) -> Number | None:
    """An excluded bound is replaced by a number a little inside of it."""
    gap = Fraction(high[0]) - Fraction(low[0]) if math.isfinite(high[0] - low[0]) else None
    first, last = _inside(low, gap, 1), _inside(high, gap, -1)
    beyond = (low[1] and first <= low[0]) or (high[1] and last >= high[0]) or first > last
    return None if beyond else Number(first, last)


def _inside(bound: tuple[float, bool], gap: Fraction | None, sign: int) -> float:
    value, excluded = bound
    if not excluded:
        return value
    step = NUDGE * max(1, abs(Fraction(value)))
    return float(Fraction(value) + sign * (step if gap is None else min(step, gap / 4)))
