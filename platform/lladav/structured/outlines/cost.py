"""How many tokens something takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens at least, and tokens if there is room; both are upper bounds for what is written then."""

    minimum: float
    wanted: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.minimum + other.minimum, self.wanted + other.wanted)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.minimum - other.minimum, self.wanted - other.wanted)

    def __mul__(self, count: float) -> Cost:
        return Cost(self.minimum * count, self.wanted * count) if count else NOTHING

    @property
    def extra(self) -> float:
        """Tokens on top of the fewest."""
        return self.wanted - self.minimum

    @property
    def comfortable(self) -> float:
        """Tokens with which values are not cut much: the middle of both."""
        return (self.minimum + self.wanted) / 2

    @property
    def possible(self) -> bool:
        return self.minimum < math.inf


NOTHING = Cost(0, 0)
IMPOSSIBLE = Cost(math.inf, math.inf)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, NOTHING)
