"""Reads the supported part of JSON Schema into the types of ``schema_types``.

An unsupported keyword is an error that names its path; it is never ignored, because every answer has to
validate. Keywords that only describe (``title``, ``default``) are ignored. So is ``additionalProperties``,
because an answer contains only the listed properties.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias
from urllib.parse import unquote

from serve.errors import ApiError
from serve.structured.schema_types import (
    SCALAR_TYPES,
    ArrayType,
    EnumType,
    NumberType,
    ObjectType,
    Scalar,
    SchemaType,
    StringType,
    is_nullable,
    make_nullable,
)

ROOT = "response_format.json_schema.schema"
IGNORED = {
    *("title", "description", "default", "examples", "additionalProperties"),
    *("$schema", "$comment", "$defs", "definitions"),
}
DEFAULT_MAX_ITEMS = 4
"""``maxItems`` of an array that does not have it, unless its ``minItems`` is larger."""
MAX_DEPTH = 32
"""Levels of a schema; more could exhaust the stack."""
MAX_VALUES = 2000
"""Values of a schema with all references expanded: a few lines of references can stand for millions."""
MAX_COUNT = 2**31 - 1
MAX_BOUND = 1e300
"""Largest magnitude of a number's bound; larger floats remain beyond it."""
NUDGE = Fraction(1, 10**6)
"""Distance from an exclusive bound to the closest real number in use, relative to bounds above 1."""

Bound: TypeAlias = tuple[float, bool]
"""A bound of a number, and whether it is exclusive."""


def read_schema(schema: object) -> SchemaType:
    """The type that a schema describes; raises ``ApiError`` for everything that is not supported."""
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise schema_error(
            ROOT, "is not plain JSON: too deep, or has infinite numbers or invalid Unicode"
        ) from None
    return _Reader(schema).read(schema, ROOT)


def schema_error(path: str, reason: str) -> ApiError:
    """The error for the keyword at a path."""
    return ApiError(400, f"{path} {reason}", code="unsupported_schema", param=path)


class _Reader:
    """Reads one schema. ``ancestors`` are the paths of the enclosing schemas, to detect recursion."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._count = 0
        self._readers: dict[str, Callable[[dict[str, Any], str, tuple[str, ...]], SchemaType]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _number,
            "number": _number,
            "boolean": _boolean,
            "null": _null,
        }

    def read(self, schema: object, path: str, ancestors: tuple[str, ...] = ()) -> SchemaType:
        if not isinstance(schema, dict):
            raise schema_error(path, "is not a schema; write an object with a type")
        self._count += 1
        if len(ancestors) >= MAX_DEPTH or self._count > MAX_VALUES:
            raise schema_error(
                path, f"is beyond {MAX_DEPTH} levels or {MAX_VALUES} values; make the schema smaller"
            )
        ancestors = (*ancestors, path)
        if "$ref" in schema:
            return self._reference(schema, path, ancestors)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._optional(schema, union, path, ancestors)
        if "enum" in schema or "const" in schema:
            return _enum(schema, path)
        return self._typed(schema, path, ancestors)

    def _reference(self, schema: dict[str, Any], path: str, ancestors: tuple[str, ...]) -> SchemaType:
        _check_keywords(schema, path, "$ref")
        ref_path, target = f"{path}.$ref", schema["$ref"]
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise schema_error(ref_path, "is not a local reference; use #/$defs/NAME")
        found, found_path = self._root, ROOT
        for name in (unquote(part).replace("~1", "/").replace("~0", "~") for part in target.split("/")[1:]):
            if not isinstance(found, dict) or name not in found:
                raise schema_error(ref_path, f"refers to {target}, which does not exist")
            found, found_path = found[name], f"{found_path}.{name}"
        if found_path in ancestors:
            raise schema_error(ref_path, "is recursive; write the levels out")
        return self.read(found, found_path, ancestors)

    def _optional(
        self, schema: dict[str, Any], union: str, path: str, ancestors: tuple[str, ...]
    ) -> SchemaType:
        """A union of one schema and null, which is how pydantic writes ``Optional``."""
        _check_keywords(schema, path, union)
        union_path, members = f"{path}.{union}", schema[union]
        if not isinstance(members, list):
            raise schema_error(union_path, "is not a list")
        not_null = [n for n, member in enumerate(members) if not _is_null(member)]
        if len(not_null) != 1 or len(members) > 2:
            raise schema_error(union_path, "is supported only for one schema and null")
        kind = self.read(members[not_null[0]], f"{union_path}[{not_null[0]}]", ancestors)
        if len(members) == 1:
            return kind
        _check_keywords(members[1 - not_null[0]], f"{union_path}[{1 - not_null[0]}]", "type")
        if union == "oneOf" and is_nullable(kind):
            raise schema_error(union_path, "allows null twice, which oneOf forbids; use anyOf")
        return make_nullable(kind)

    def _typed(self, schema: dict[str, Any], path: str, ancestors: tuple[str, ...]) -> SchemaType:
        names = _types(schema, path)
        not_null = [name for name in names if name != "null"] or ["null"]
        if len(not_null) > 1 or not_null[0] not in self._readers:
            raise schema_error(
                f"{path}.type",
                f"is not supported; use one of {', '.join(self._readers)}, optionally with null",
            )
        kind = self._readers[not_null[0]](schema, path, ancestors)
        return make_nullable(kind) if "null" in names else kind

    def _object(self, schema: dict[str, Any], path: str, ancestors: tuple[str, ...]) -> SchemaType:
        _check_keywords(schema, path, "type", "properties", "required")
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise schema_error(f"{path}.properties", "is not an object")
        if not isinstance(required, list) or any(name not in properties for name in map(str, required)):
            raise schema_error(f"{path}.required", "names properties that are not described; add them")
        return ObjectType(
            {
                name: self.read(each, f"{path}.properties.{name}", ancestors)
                for name, each in properties.items()
            }
        )

    def _array(self, schema: dict[str, Any], path: str, ancestors: tuple[str, ...]) -> SchemaType:
        _check_keywords(schema, path, "type", "items", "minItems", "maxItems")
        min_items = _count(schema, "minItems", path) or 0
        max_items = _count(schema, "maxItems", path)
        max_items = max(DEFAULT_MAX_ITEMS, min_items) if max_items is None else max_items
        if min_items > max_items:
            raise schema_error(f"{path}.minItems", "is above maxItems; swap them")
        item = self.read(schema.get("items"), f"{path}.items", ancestors)
        if min_items != max_items and not isinstance(item, SCALAR_TYPES):
            raise schema_error(
                f"{path}.items", "are not scalars; set minItems and maxItems to the same number"
            )
        return ArrayType(item, min_items, max_items)


def _check_keywords(schema: dict[str, Any], path: str, *keywords: str) -> None:
    for key in schema:
        if key not in keywords and key not in IGNORED:
            raise schema_error(f"{path}.{key}", f"is not supported; remove the keyword {key}")


def _types(schema: dict[str, Any], path: str) -> list[str]:
    names = schema.get("type")
    if not names:
        raise schema_error(path, "has no type; add one")
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _count(schema: dict[str, Any], key: str, path: str) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise schema_error(f"{path}.{key}", f"is not supported: use a whole number from 0 to {MAX_COUNT}")
    return value


def _enum(schema: dict[str, Any], path: str) -> SchemaType:
    _check_keywords(schema, path, "enum", "const", "type")
    key = "enum" if "enum" in schema else "const"
    values = schema["enum"] if key == "enum" else [schema["const"]]
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        raise schema_error(f"{path}.{key}", "supports only strings, numbers, true, false and null")
    if "const" in schema:
        values = [value for value in values if _equal(value, schema["const"])]
    if "type" in schema:
        names = _types(schema, path)
        values = [value for value in values if any(_has_type(value, name) for name in names)]
    if not values:
        raise schema_error(f"{path}.{key}", "has no value of its type")
    return EnumType(tuple(values))


def _equal(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal; in Python ``True == 1``, in JSON they differ."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _has_type(value: Scalar, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return name == ("null" if value is None else "boolean")
    if isinstance(value, str):
        return name == "string"
    return name == "number" or (name == "integer" and value == int(value))


def _string(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> SchemaType:
    _check_keywords(schema, path, "type", "minLength", "maxLength")
    min_length, max_length = _count(schema, "minLength", path) or 0, _count(schema, "maxLength", path)
    if max_length is not None and min_length > max_length:
        raise schema_error(f"{path}.minLength", "is above maxLength; swap them")
    return StringType(min_length, max_length)


def _boolean(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> SchemaType:
    _check_keywords(schema, path, "type")
    return EnumType((True, False))


def _null(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> SchemaType:
    _check_keywords(schema, path, "type")
    return EnumType((None,))


def _number(schema: dict[str, Any], path: str, _: tuple[str, ...]) -> SchemaType:
    _check_keywords(
        schema, path, "type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"
    )
    multiple = _count(schema, "multipleOf", path)
    if multiple == 0:
        raise schema_error(f"{path}.multipleOf", "is 0; use a whole number of at least 1")
    if multiple is None and "integer" in _types(schema, path):
        multiple = 1
    bounds = _bounds(schema, path)
    number = _real(*bounds) if multiple is None else _integer(*bounds, multiple)
    if number is None:
        raise schema_error(path, "has bounds with no number between them")
    return number


def _bounds(schema: dict[str, Any], path: str) -> tuple[Bound, Bound]:
    """The tightest lower and upper bound."""
    low, high = [(-math.inf, False)], [(math.inf, False)]
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if (value := schema.get(key)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_BOUND:
            raise schema_error(f"{path}.{key}", f"is not a number of at most {MAX_BOUND}")
        (low if key.lower().endswith("minimum") else high).append((value, key.startswith("exclusive")))
    return max(low), min(high, key=lambda bound: (bound[0], not bound[1]))


def _integer(low: Bound, high: Bound, multiple: int) -> NumberType | None:
    """Integer multiples between the bounds; None if there is none."""
    first: float = low[0]
    last: float = high[0]
    if math.isfinite(first):
        times = Fraction(first) / multiple
        first = (math.floor(times) + 1 if low[1] else math.ceil(times)) * multiple
    if math.isfinite(last):
        times = Fraction(last) / multiple
        last = (math.ceil(times) - 1 if high[1] else math.floor(times)) * multiple
    return NumberType(first, last, multiple) if first <= last else None


def _real(low: Bound, high: Bound) -> NumberType | None:
    """Real numbers between the bounds; an exclusive bound is replaced by a number slightly inside of it."""
    gap = Fraction(high[0]) - Fraction(low[0]) if math.isfinite(high[0] - low[0]) else None
    first, last = _inside(low, gap, 1), _inside(high, gap, -1)
    outside = (low[1] and first <= low[0]) or (high[1] and last >= high[0]) or first > last
    return None if outside else NumberType(first, last)


def _inside(bound: Bound, gap: Fraction | None, sign: int) -> float:
    value, exclusive = bound
    if not exclusive:
        return value
    step = NUDGE * max(1, abs(Fraction(value)))
    return float(Fraction(value) + sign * (step if gap is None else min(step, gap / 4)))
