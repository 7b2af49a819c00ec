"""Penalties of the tokens that an answer has, wherever they stand; no torch.

Masks are filled in any order, so a token that is written counts for the masks on both sides of it. Tokens
that one step writes do not count for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RepetitionPenalties:
    """The tokens of an answer and how their logits change."""

    counts: Mapping[int, int]
    """How often the answer has each of its tokens."""
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    @classmethod
    def of(
        cls, tokens: np.ndarray, repetition: float, frequency: float, presence: float
    ) -> RepetitionPenalties | None:
        """Those of an answer that has ``tokens``; None if no logit changes."""
        if not len(tokens) or (repetition, frequency, presence) == (1.0, 0.0, 0.0):
            return None
        ids, counts = np.unique(tokens, return_counts=True)
        by_id = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        return cls(by_id, repetition, frequency, presence)
