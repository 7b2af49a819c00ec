"""Repetition within a text, by the measures of the field.

``repeated_share`` is rep-n (seq-rep-n of Welleck et al., arXiv 1908.04319): one minus distinct-n of the text.
``diversity`` is the product of Su et al. (arXiv 2202.06417).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

WORD = re.compile(r"\w+|[^\w\s]")
DIVERSITY_ORDERS = (2, 3, 4)


def words(text: str) -> list[str]:
    """Words and punctuation marks; unlike the tokens of a model, they compare models with each other."""
    return WORD.findall(text)


def repeated_share(units: Sequence[str], n: int) -> float:
    """Share of the n-grams that occur before in the same text (rep-n); 0 for fewer than n units."""
    ngrams = list(zip(*(units[start:] for start in range(n)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def diversity(units: Sequence[str]) -> float:
    """Product of 1 - rep-n for n from 2 to 4; 1 for a text without repeated word pairs."""
    return math.prod(1 - repeated_share(units, n) for n in DIVERSITY_ORDERS)
