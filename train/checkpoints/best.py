"""The lowest validation loss of a run so far. It is part of every checkpoint, so that a resumed run keeps the
same checkpoint as its best one and ends early at the same step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BestValidation:
    """The step with the lowest validation loss, and how many validations have followed it."""

    step: int
    loss: float
    later: int = 0

    def after(self, step: int, loss: float) -> BestValidation:
        """The best one after another validation; of equal losses the earlier one, and NaN is never better."""
        if loss < self.loss or math.isnan(self.loss):
            return BestValidation(step, loss)
        return BestValidation(self.step, self.loss, self.later + 1)
