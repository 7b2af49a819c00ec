"""Among which tokens a draw is made; no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenLimits:
    """Limits of the tokens that may be drawn, at the temperature of the draw.

    They apply in this order, as in ``transformers``; each looks at the tokens that are left. The most
    probable token always is.
    """

    top_k: int | None = None
    """The most probable tokens, this many; none: all."""
    top_p: float = 1.0
    """The most probable tokens that together have this probability, including the one that crosses it."""
    min_p: float = 0.0
    """Tokens with at least this share of the probability of the most probable one."""

    def within(self, descending_N: np.ndarray) -> np.ndarray:
        """Which of some alternatives (N) may be drawn, given their probabilities in descending order."""
        left_N = descending_N.copy()
        if self.top_k is not None:
            left_N[self.top_k :] = 0.0
        kept_N = (left_N > 0) & (left_N >= self.min_p * left_N[0])
        if self.top_p < 1:  # the sum of all but the last may round to 1
            kept_N &= (left_N.cumsum() - left_N) / left_N.sum() < self.top_p
        kept_N[0] = True
        return kept_N


NO_LIMITS = TokenLimits()
