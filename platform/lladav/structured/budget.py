"""Bounds work by counting steps, so that a result depends neither on the machine nor on what is cached."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from lladav.structured.errors import SchemaError

T = TypeVar("T")
SORTED_PER_STEP = 10
READ_PER_STEP = 100
"""Entries of tables that numpy sorts or reads in the time of one step."""


class BudgetExceeded(SchemaError):
    """More steps are needed than a budget has."""

    def __init__(self, budget: Budget) -> None:
        super().__init__("", budget.reason)
        self.budget = budget


class Budget:
    """Steps of about a microsecond. They count for the larger budget that this one is a part of, too."""

    def __init__(self, steps: float, reason: str, whole: Budget | None = None) -> None:
        """``reason`` says what is wrong where more steps are needed, and what to do."""
        self.reason = reason
        self.spent = 0
        self._steps, self._whole = steps, whole
        self._kept: dict[Hashable, Any] = {}

    def spend(self, steps: int = 1) -> None:
        """Count steps before they are taken; raises ``BudgetExceeded`` if there are not as many."""
        if self._whole is not None:
            self._whole.spend(steps)
        self.spent += steps
        if self.spent > self._steps:
            raise BudgetExceeded(self)

    def once(self, key: Hashable, steps: int, make: Callable[[], T]) -> T:
        """What ``make`` returns. It is made and its steps are counted the first time only."""
        if key not in self._kept:
            self.spend(steps)
            self._kept[key] = make()
        return self._kept[key]

    def lift(self) -> None:
        """Permit any number of further steps."""
        self._steps = math.inf


def unlimited() -> Budget:
    """A budget that is never exceeded."""
    return Budget(math.inf, "")
