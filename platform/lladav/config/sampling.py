"""The part of a data set to train on, as in the released data lists: ``first:N``, ``end:N``, ``random:N``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

FORM = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


class SamplingStrategy(StrEnum):
    """Which samples of a data set are taken: the first ones, the last ones, or random ones."""

    first = "first"
    end = "end"
    random = "random"


@dataclass(frozen=True)
class Sampling:
    """A strategy, and either a number of samples or a fraction of them."""

    strategy: SamplingStrategy
    samples: int | None = None
    fraction: Fraction | None = None

    def size(self, available: int) -> int:
        """Number of samples that are taken of ``available`` ones, rounded up as released."""
        if self.fraction is not None:
            return math.ceil(self.fraction * available)
        return min(self.samples or 0, available)


def parse_sampling(text: str) -> Sampling | None:
    """Read ``random:10%`` and the like; None if the text has another form or takes nothing."""
    match = FORM.fullmatch(text)
    if not match:
        return None
    strategy, number, percent = SamplingStrategy(match[1]), Fraction(match[2]), match[3]
    if percent:
        return Sampling(strategy, fraction=number / 100) if 0 < number <= 100 else None
    return Sampling(strategy, samples=int(number)) if number >= 1 and number.denominator == 1 else None
