"""What an outline demands of a step: tokens of slots that an automaton accepts, or a choice.

``structured_sequence`` describes the step, ``structured_sampler`` reads the logits for it. Both work on rows:
row i of a request is its i-th candidate.

Shapes: N positions of a slot, R of them that are candidates, K classes of its automaton, O openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lladav.decoding.token_limits import TokenLimits
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.outline import Slot


@dataclass(frozen=True)
class AnyOther:
    """Any token but one, with which an answer continues freely."""

    token: int


Element: TypeAlias = "int | Slot | AnyOther | None"
"""What comes next in an answer: a fixed token, a slot, any other token, or None for its end."""


@dataclass(frozen=True)
class MaskedSlot:
    """A slot with candidates, which are consecutive rows of a step."""

    automaton: TokenAutomaton
    tokens_N: np.ndarray
    """The tokens of its positions so far."""
    is_mask_N: np.ndarray
    positions_R: np.ndarray
    """Which of its positions are candidates."""
    first_row: int
    """Row of the first candidate."""

    @property
    def rows(self) -> range:
        """Rows of the candidates."""
        return range(self.first_row, self.first_row + len(self.positions_R))

    def most_probable(self, best_RK: np.ndarray, padding_R: np.ndarray, padding: Sequence[int]) -> np.ndarray:
        """Class of each candidate (R) in the most probable sequence; ``PADDING`` behind the value.

        ``best_RK`` is the score of the best token of each class, ``padding_R`` that of the best of the tokens
        ``padding``. Masks that are no candidates may hold any token at the same score.
        """
        best_NK = np.zeros((len(self.tokens_N), self.automaton.num_classes))
        padding_N = np.zeros(len(self.tokens_N))
        best_NK[self.positions_R], padding_N[self.positions_R] = best_RK, padding_R
        written_N = ~self.is_mask_N
        is_padding_N = np.isin(self.tokens_N, padding)
        best_NK[written_N] = -np.inf
        padding_N[written_N] = np.where(is_padding_N[written_N], 0.0, -np.inf)
        (value_P,) = np.nonzero(written_N & ~is_padding_N)
        best_NK[value_P, self.automaton.class_of_V[self.tokens_N[value_P]]] = 0.0
        return self.automaton.most_probable(best_NK, padding_N)[0][self.positions_R]


@dataclass(frozen=True)
class Opening:
    """A way in which alternatives continue after equal beginnings."""

    row: int
    """Row of the position at which they continue."""
    element: Element


@dataclass(frozen=True)
class OpeningScores:
    """The model's verdict on the openings (O) of a step."""

    log_probability_O: np.ndarray
    """Of all tokens with which an opening may begin, together."""
    noise_O: np.ndarray
    """Gumbel noise; zero at temperature 0."""


@dataclass(frozen=True)
class StepConstraint:
    """The slots that a step fills, or the openings that it compares."""

    padding: tuple[int, ...]
    slots: Sequence[MaskedSlot] = ()
    openings: Sequence[Opening] = ()


def drawn_opening(
    scores: OpeningScores, openings: Sequence[int], temperature: float, limits: TokenLimits
) -> int:
    """The opening, among some of a step's, that the model decides for; the first one of equals.

    At temperature 0 it is the most probable one. Otherwise it is drawn by Gumbel-max within limits.
    """
    log_probability = scores.log_probability_O[list(openings)]
    if temperature == 0:
        return openings[int(log_probability.argmax())]
    tempered = (log_probability - log_probability.max()) / temperature
    descending = np.argsort(-tempered, kind="stable")
    within = limits.within(np.exp(tempered[descending]) / np.exp(tempered).sum())
    drawable = descending[within]
    noisy = tempered[drawable] + scores.noise_O[list(openings)][drawable]
    return openings[int(drawable[noisy.argmax()])]
