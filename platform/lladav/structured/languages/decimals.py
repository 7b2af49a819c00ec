"""The decimal digits of exact numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lladav.structured.errors import SchemaError

MAX_PLACES = 400
"""Digits after the point that a number of a schema may have."""


@dataclass(frozen=True)
class Digits:
    """The decimal digits of a magnitude, without zeros in front or at the end."""

    whole: str
    fraction: str

    @classmethod
    def of(cls, number: Fraction) -> Digits:
        """The digits of ``abs(number)``."""
        places = decimal_places(number)
        digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places)
        whole = digits[: len(digits) - places]
        return cls(whole.lstrip("0"), digits[len(whole) :].rstrip("0"))


def as_written(number: Fraction) -> Fraction:
    """The decimal that a number was written as: for a binary fraction the shortest one of the same float."""
    if number.denominator == 1 or Fraction(float(number)) != number:
        return number
    return Fraction(repr(float(number)))


def decimal_places(number: Fraction) -> int:
    """Digits after the point that a number has."""
    for places in range(MAX_PLACES + 1):
        if 10**places % number.denominator == 0:
            return places
    raise SchemaError("", f"has a number of more than {MAX_PLACES} digits after the point; use a shorter one")


def numeral(number: Fraction, places: int) -> str:
    """The number with a given number of digits after the point, which must be enough."""
    digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places + 1)
    point = len(digits) - places
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:point]}.{digits[point:]}" if places else f"{sign}{digits}"
