"""The decimal digits of exact numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lladav.structured.errors import SchemaError

MAX_PLACES = 300
"""Digits after the point that a number of a schema may have, and in front of it if it is no integer."""


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
    if number.denominator == 1:
        return number
    if abs(number) >= 10**MAX_PLACES:
        raise SchemaError("", f"has a number of more than {MAX_PLACES} digits; use a smaller one")
    nearest = float(number)
    return Fraction(repr(nearest)) if Fraction(nearest) == number else number


def decimal_places(number: Fraction) -> int:
    """Digits after the point that a number has."""
    for places in range(MAX_PLACES + 1):
        if 10**places % number.denominator == 0:
            return places
    raise SchemaError("", f"has a number of more than {MAX_PLACES} digits after the point; use a shorter one")


def numeral(digits: int, places: int) -> str:
    """The decimal numeral of an integer with the point in front of its last ``places`` digits."""
    text = str(abs(digits)).zfill(places + 1)
    sign, point = "-" if digits < 0 else "", len(text) - places
    return f"{sign}{text[:point]}.{text[point:]}" if places else f"{sign}{text}"
