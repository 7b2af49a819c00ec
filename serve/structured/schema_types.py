"""The types of values that structured output supports, and how a decoded value is made valid.

A type does not know about tokens: ``json_schema`` reads types from a schema, ``template`` puts them on a
canvas. The result of ``fit`` is always valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class StringType:
    """A string of ``min_length`` to ``max_length`` characters. If it is nullable, an empty slot is null."""

    min_length: int = 0
    max_length: int | None = None
    nullable: bool = False

    def fit(self, text: str) -> str:
        """The text, cut to ``max_length`` or padded with spaces to ``min_length``."""
        return text[: self.max_length].ljust(self.min_length)


@dataclass(frozen=True)
class NumberType:
    """A number from ``low`` to ``high``, both included.

    With ``multiple`` the number is an integer multiple of it; finite bounds are multiples of it, too.
    """

    low: float = -inf
    high: float = inf
    multiple: int | None = None
    nullable: bool = False

    def fit(self, numeral: str) -> int | float:
        """The decimal numeral, rounded to a multiple and clamped to the bounds."""
        if self.multiple is not None:
            value: int | float = round(Fraction(numeral) / self.multiple) * self.multiple
        else:
            value = float(numeral) if "." in numeral else int(numeral)
        return max(self.low, min(self.high, value))


@dataclass(frozen=True)
class EnumType:
    """One of several values. A single value is a constant."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class ArrayType:
    """An array of ``min_items`` to ``max_items`` items. The two differ only for arrays of scalars."""

    item: SchemaType
    min_items: int
    max_items: int


@dataclass(frozen=True)
class ObjectType:
    """An object with all of these properties, in this order."""

    properties: Mapping[str, SchemaType]


SchemaType: TypeAlias = StringType | NumberType | EnumType | ArrayType | ObjectType
SCALAR_TYPES = StringType, NumberType, EnumType


def is_nullable(kind: SchemaType) -> bool:
    """Whether the value may be null."""
    if isinstance(kind, EnumType):
        return any(value is None for value in kind.values)
    return isinstance(kind, StringType | NumberType) and kind.nullable


def make_nullable(kind: SchemaType) -> SchemaType:
    """The type, or null. Objects and arrays are returned unchanged: the answer always contains them."""
    if isinstance(kind, EnumType):
        return kind if is_nullable(kind) else EnumType((*kind.values, None))
    return replace(kind, nullable=True) if isinstance(kind, StringType | NumberType) else kind
