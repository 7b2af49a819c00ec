"""Multiples of a number, by the remainder of a numeral's digits."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from lladav.structured.languages.decimals import decimal_places

MAX_DIVISOR = 10_000
MAX_REMAINDERS = 128
"""Remainders that an automaton tells apart."""


class Remainders:
    """The remainders of numerals divided by a step, with the point left out.

    A numeral of ``places`` digits after the point is a multiple of the step if its digits are a multiple of
    ``divisor``.
    """

    def __init__(self, step: Fraction) -> None:
        self.places = decimal_places(step)
        self.divisor = int(step * 10**self.places)
        self._same = _classes(self.divisor) if self.places == 0 and self.divisor <= MAX_DIVISOR else None

    @property
    def are_few(self) -> bool:
        """Whether an automaton can tell the remainders apart."""
        return (self.divisor if self._same is None else len(set(self._same))) <= MAX_REMAINDERS

    def after(self, remainder: int, digit: str) -> int:
        """The remainder after one more digit."""
        remainder = (10 * remainder + int(digit)) % self.divisor
        return remainder if self._same is None else self._same[remainder]

    def is_multiple(self, remainder: int, places: int) -> bool:
        """Whether digits with ``places`` of them after the point are a multiple of the step."""
        return remainder * 10 ** (self.places - places) % self.divisor == 0


@lru_cache(maxsize=64)
def _classes(divisor: int) -> list[int]:
    """For each remainder, the first one that the same digits lead to a multiple.

    With ``n`` more digits, a remainder leads to a multiple if they are ``-remainder * 10**n`` modulo the
    divisor, which may have more than ``n`` digits.
    """
    remainders = np.arange(divisor, dtype=np.int64)
    completions = []
    for more in range(len(str(divisor)) + 1):
        missing = -remainders * 10**more % divisor
        completions.append(np.where(missing < 10**more, missing, -1))
    _, firsts, labels = np.unique(np.array(completions), axis=1, return_index=True, return_inverse=True)
    return firsts[labels.reshape(-1)].tolist()
