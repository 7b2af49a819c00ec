"""What a value of structured output must be, and the value nearest to what was decoded that is.

A shape says nothing about tokens: ``json_schema`` reads shapes out of a schema, ``structured`` lays them
out on a canvas. What ``fit`` gives is valid whatever it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Text:
    """A string of ``shortest`` to ``longest`` characters; null where it may be and nothing is written."""

    shortest: int = 0
    longest: int | None = None
    nullable: bool = False

    def fit(self, text: str) -> str:
        """Cut, or filled up with spaces: there is no better guess at what is missing."""
        return text[: self.longest].ljust(self.shortest)


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``, both included; with ``multiple`` a whole multiple of it, as finite
    bounds are then, too.
    """

    low: float = -inf
    high: float = inf
    multiple: int | None = None
    nullable: bool = False

    def fit(self, numeral: str) -> int | float:
        """Rounded to a multiple and moved to the nearer bound; the numeral is a decimal one."""
        if self.multiple is not None:
            value: int | float = round(Fraction(numeral) / self.multiple) * self.multiple
        else:
            value = float(numeral) if "." in numeral else int(numeral)
        return max(self.low, min(self.high, value))


@dataclass(frozen=True)
class Choice:
    """One of some values; one alone is a constant."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Items:
    """An array of ``least`` to ``most`` items; the numbers differ for scalar items alone."""

    item: Shape
    least: int
    most: int


@dataclass(frozen=True)
class ObjectType:
    """An object with all of these properties, in this order."""

    fields: Mapping[str, Shape]


Shape: TypeAlias = Text | Number | Choice | Items | ObjectType
Scalars = Text, Number, Choice


def takes_null(shape: Shape) -> bool:
    """Whether the value may be null."""
    if isinstance(shape, Choice):
        return any(value is None for value in shape.values)
    return isinstance(shape, Text | Number) and shape.nullable


def or_null(shape: Shape) -> Shape:
    """The shape or null; objects and arrays are always written out."""
    if isinstance(shape, Choice):
        return shape if takes_null(shape) else Choice((*shape.values, None))
    return replace(shape, nullable=True) if isinstance(shape, Text | Number) else shape
