"""JSON values: their types, equality, exact numbers, and single keywords that a string satisfies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import jsonschema_rs

from lladav.structured.errors import SchemaError
from lladav.structured.forms import JsonValue

FORMATS = frozenset(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri "
    "iri-reference uuid uri-template json-pointer relative-json-pointer regex".split()
)
"""Formats that are asserted; all others are annotations."""


class JsonType(StrEnum):
    """Types of JSON; an integer is a number."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"
    ARRAY = "array"
    OBJECT = "object"


def type_of(value: JsonValue) -> JsonType:
    """The JSON type of a value."""
    if value is None:
        return JsonType.NULL
    if isinstance(value, bool):
        return JsonType.BOOLEAN
    if isinstance(value, int | float):
        return JsonType.NUMBER
    if isinstance(value, str):
        return JsonType.STRING
    return JsonType.ARRAY if isinstance(value, list) else JsonType.OBJECT


def identity(value: JsonValue) -> Any:
    """A hashable key that equal JSON values share: 1 equals 1.0, but not true."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, list):
        return "array", tuple(identity(item) for item in value)
    if isinstance(value, dict):
        return "object", frozenset((name, identity(item)) for name, item in value.items())
    return value


@dataclass(frozen=True)
class ValueSet:
    """Distinct JSON values in order."""

    values: tuple[JsonValue, ...]

    @classmethod
    def of(cls, values: Iterable[JsonValue]) -> ValueSet:
        """The values without repetition."""
        return cls(tuple({identity(value): value for value in reversed([*values])}.values())[::-1])

    def __contains__(self, value: JsonValue) -> bool:
        return identity(value) in self._identities

    def __bool__(self) -> bool:
        return bool(self.values)

    def where(self, holds: Callable[[JsonValue], bool]) -> ValueSet:
        """The values of which something holds."""
        kept = tuple(value for value in self.values if holds(value))
        return self if len(kept) == len(self.values) else ValueSet(kept)

    @cached_property
    def _identities(self) -> frozenset[Any]:
        return frozenset(map(identity, self.values))


def common(a: ValueSet | None, b: ValueSet | None) -> ValueSet | None:
    """The values in both; None is any value."""
    return (b if a is None else a) if a is None or b is None else a.where(b.__contains__)


def exact(number: JsonValue) -> Fraction:
    """The number that a JSON text means: 0.1 is a tenth."""
    assert isinstance(number, int | float)
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def satisfies(text: str, keyword: str, value: str) -> bool:
    """Whether a string satisfies ``pattern`` (ECMA-262) or ``format``; raises ``SchemaError``."""
    return _validator(keyword, value).is_valid(text)


@lru_cache(maxsize=4096)
def _validator(keyword: str, value: str) -> Any:
    try:
        return jsonschema_rs.validator_for({keyword: value}, validate_formats=True)
    except ValueError:
        raise SchemaError("#", f"has a {keyword} that cannot be read: {value}") from None
