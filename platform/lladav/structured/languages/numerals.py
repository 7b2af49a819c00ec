"""Numerals in bounds, as a condition on strings: order and remainder of a number, found digit by digit.

Numerals are canonical: without exponent, ``-0``, or zeros in front. Those with a fraction have at most
``MAX_DIGITS`` digits. A float holds that many digits, so different numerals are parsed as different floats,
and a check of the float agrees with the exact number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from fractions import Fraction
from typing import NamedTuple

from lladav.structured.forms import NumberForm
from lladav.structured.languages.code_points import characters
from lladav.structured.languages.decimals import Digits, as_written
from lladav.structured.languages.remainders import Remainders

MAX_DIGITS = 15
MOVE_STEPS = 4
"""Steps of a move, besides one for each reference."""


class Phase(IntEnum):
    """The part of a numeral that was read last."""

    START = 0
    MINUS = 1
    ZERO = 2
    """The only digit before the point is 0."""
    WHOLE = 3
    POINT = 4
    FRACTION = 5


@dataclass(frozen=True)
class Read:
    """What matters about the part of a numeral that was read."""

    phase: Phase
    orders: tuple[int, ...]
    """Whether the digits are less than (-1), equal to (0) or more than (1) as many of each reference."""
    negative: bool = False
    digits: int = 0
    """Digits before and after the point, without a 0 in front of it."""
    places: int = 0
    """Digits after the point, as far as they matter."""
    remainder: int = 0


class Range(NamedTuple):
    """The references that bound a magnitude, by number; None without a bound."""

    least: int | None
    most: int | None


class Numeral:
    """Numerals of a form that are multiples of a step, or any if there is none.

    A numeral is compared with references: 0, the bounds and the excluded numbers.
    """

    settled = None

    def __init__(self, form: NumberForm, remainders: Remainders | None) -> None:
        self.sets = [characters(each) for each in "-.0123456789"]
        self._form, self._remainders = form, remainders
        bounds = [each for each in (form.low, form.high) if each is not None]
        self._references = [
            *dict.fromkeys(as_written(each) for each in (Fraction(0), *bounds, *form.excluded))
        ]
        self._digits = [Digits.of(each) for each in self._references]
        self._max_whole = max(MAX_DIGITS, len(Digits.of(_least_magnitude(form)).whole))
        self._max_places = MAX_DIGITS if remainders is None else remainders.places
        self._ranges = {negative: self._range(negative) for negative in (False, True)}
        self.start = Read(Phase.START, (0,) * len(self._references))
        self.move_steps = MOVE_STEPS + len(self._references)

    def step(self, read: Read, point: int) -> Read | None:
        """The state after one more character, or None if no permitted numeral continues so."""
        following = self._following(read, point)
        return following if following and self._may_be_permitted(following) else None

    def _following(self, read: Read, point: int) -> Read | None:
        match read.phase, chr(point):
            case Phase.START, "-":
                return replace(read, phase=Phase.MINUS, negative=True)
            case Phase.START | Phase.MINUS, "0":
                return replace(read, phase=Phase.ZERO)
            case Phase.ZERO | Phase.WHOLE, ".":
                return self._after_point(read)
            case Phase.START | Phase.MINUS | Phase.WHOLE, digit if digit.isdecimal():
                return self._after_whole_digit(read, digit)
            case Phase.POINT | Phase.FRACTION, digit if digit.isdecimal():
                return self._after_place(read, digit)
        return None

    def accepts(self, read: Read) -> bool:
        """Whether the numeral is complete and its number permitted."""
        if read.phase in (Phase.START, Phase.MINUS, Phase.POINT):
            return False
        orders = dict(zip(self._references, self._signed_orders(read), strict=True))
        if (read.negative and orders[Fraction(0)] == 0) or not self._is_multiple(read):
            return False
        form = self._form
        above = form.low is None or orders[as_written(form.low)] > (0 if form.low_excluded else -1)
        below = form.high is None or orders[as_written(form.high)] < (0 if form.high_excluded else 1)
        return above and below and all(orders[as_written(each)] for each in form.excluded)

    def _range(self, negative: bool) -> Range | None:
        """The magnitudes of the permitted numbers with this sign; None if there are none."""
        low, high = self._form.low, self._form.high
        if negative:
            low, high = (None if each is None else -each for each in (high, low))
        if high is not None and high < 0:
            return None
        least, most = (
            None
            if each is None or each < 0
            else self._references.index(as_written(-each if negative else each))
            for each in (low, high)
        )
        return Range(least, most)

    def _may_be_permitted(self, read: Read) -> bool:
        """False if the characters so far put the number out of bounds, whatever follows."""
        if (bounds := self._ranges[read.negative]) is None:
            return False
        if read.phase in (Phase.POINT, Phase.FRACTION):
            is_less = bounds.least is not None and read.orders[bounds.least] < 0
            is_more = bounds.most is not None and read.orders[bounds.most] > 0
            return not is_less and not is_more
        if read.phase is not Phase.WHOLE or bounds.most is None:
            return True
        return read.digits < len(self._digits[bounds.most].whole) or read.orders[bounds.most] <= 0

    def _after_point(self, read: Read) -> Read | None:
        if not self._max_places or read.digits >= MAX_DIGITS:
            return None
        return replace(read, phase=Phase.POINT, orders=self._orders_of_whole(read))

    def _after_whole_digit(self, read: Read, digit: str) -> Read | None:
        if read.digits >= self._max_whole:
            return None
        index = read.digits
        # A digit behind the whole part of the other number makes this number more.
        orders = [
            1 if index >= len(each.whole) else order or _order(digit, each.whole[index])
            for order, each in zip(read.orders, self._digits, strict=True)
        ]
        return replace(
            read,
            phase=Phase.WHOLE,
            digits=index + 1,
            orders=tuple(orders),
            remainder=self._remainder(read, digit),
        )

    def _after_place(self, read: Read, digit: str) -> Read | None:
        if read.digits >= MAX_DIGITS or read.places >= self._max_places:
            return None
        orders = [
            order or _order(digit, each.fraction[read.places : read.places + 1] or "0")
            for order, each in zip(read.orders, self._digits, strict=True)
        ]
        return Read(
            Phase.FRACTION,
            tuple(orders),
            read.negative,
            read.digits + 1,
            read.places + 1,
            self._remainder(read, digit),
        )

    def _remainder(self, read: Read, digit: str) -> int:
        return self._remainders.after(read.remainder, digit) if self._remainders else 0

    def _is_multiple(self, read: Read) -> bool:
        return not self._remainders or self._remainders.is_multiple(read.remainder, read.places)

    def _orders_of_whole(self, read: Read) -> tuple[int, ...]:
        """The orders when the whole part ends: a shorter one is less."""
        return tuple(
            -1 if read.digits < len(each.whole) else order
            for order, each in zip(read.orders, self._digits, strict=True)
        )

    def _signed_orders(self, read: Read) -> list[int]:
        """Whether the number is less than, equal to or more than each reference, if the numeral ends here."""
        orders = read.orders if read.phase is Phase.FRACTION else self._orders_of_whole(read)
        return [
            _with_signs(order or -(len(each.fraction) > read.places), read.negative, number)
            for order, each, number in zip(orders, self._digits, self._references, strict=True)
        ]


def _with_signs(order: int, negative: bool, reference: Fraction) -> int:
    """The order of a number and a reference, from that of their magnitudes."""
    if negative:
        return -order if reference < 0 else -1 if reference > 0 or order else 0
    return 1 if reference < 0 else order


def _order(one: str, other: str) -> int:
    return (one > other) - (one < other)


def _least_magnitude(form: NumberForm) -> Fraction:
    """The least magnitude within the bounds."""
    if form.low is not None and form.low > 0:
        return as_written(form.low)
    if form.high is not None and form.high < 0:
        return as_written(form.high)
    return Fraction(0)
