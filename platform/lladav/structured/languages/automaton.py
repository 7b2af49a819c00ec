"""An automaton over tokens, and the most probable sequence of tokens that it accepts.

Tokens that do the same in every state form a class, so a step looks at the vocabulary once, to find the best
token of each class. A dynamic program over states and positions then finds the most probable accepted
sequence under independent distributions per position (DINGO, arXiv 2505.23061). It is exact for one step. Any
part of the sequence may be written: the rest of it is a completion, so no step leads to a dead end.

Shapes: V tokens of the vocabulary, K classes, S states, E edges, N positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

PADDING = -1
"""Class of a position behind the end of the value."""


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """A deterministic automaton over classes of tokens; every state reaches an accepting one."""

    class_of_V: np.ndarray
    """Class of each token (int32); tokens of class 0 are never accepted."""
    num_classes: int
    """K, class 0 included."""
    sources_E: np.ndarray
    """State that an edge leaves (int32)."""
    classes_E: np.ndarray
    """Class of an edge (int32), never 0."""
    targets_E: np.ndarray
    """State that an edge enters (int32), in ascending order."""
    start: int
    accepting_S: np.ndarray
    """Whether a value may end in a state (bool)."""
    min_tokens: int
    """Tokens of the shortest sequence that is accepted."""
    max_tokens: int | None
    """Tokens of the longest one; None if there is no longest."""

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """States that an edge enters, and the first edge of each."""
        return np.unique(self.targets_E, return_index=True)

    def most_probable(self, best_NK: np.ndarray, padding_N: np.ndarray) -> tuple[np.ndarray, float]:
        """Class of each position (N), ``PADDING`` behind the end, and the log-probability of the sequence.

        ``best_NK`` is the log-probability of the most probable token of each class at each position, and
        ``padding_N`` that of padding. For a position that is written already, it is 0 for what it holds and
        minus infinity for everything else. Raises ``ValueError`` if no sequence is accepted.
        """
        reached = [np.full(len(self.accepting_S), -np.inf)]
        reached[0][self.start] = 0.0
        for best_K in best_NK:
            reached.append(self._step(reached[-1], best_K))
        after_P = np.concatenate((np.cumsum(padding_N[::-1])[::-1], [0.0]))
        ended_P = after_P + [scores_S[self.accepting_S].max(initial=-np.inf) for scores_S in reached]
        end = int(ended_P.argmax())
        if ended_P[end] == -np.inf:
            raise ValueError("no sequence of this length is accepted")
        classes_N = np.full(len(best_NK), PADDING)
        state = int(np.where(self.accepting_S, reached[end], -np.inf).argmax())
        for position in range(end - 1, -1, -1):
            state, classes_N[position] = self._edge_into(state, reached[position], best_NK[position])
        return classes_N, float(ended_P[end])

    def _step(self, scores_S: np.ndarray, best_K: np.ndarray) -> np.ndarray:
        """Score of the best way into each state."""
        states, first_edges = self._groups
        next_S = np.full(len(scores_S), -np.inf)
        if len(states):
            edges_E = scores_S[self.sources_E] + best_K[self.classes_E]
            next_S[states] = np.maximum.reduceat(edges_E, first_edges)
        return next_S

    def _edge_into(self, state: int, scores_S: np.ndarray, best_K: np.ndarray) -> tuple[int, int]:
        """Source and class of the best edge into a state."""
        first, end = np.searchsorted(self.targets_E, (state, state + 1))
        edges = scores_S[self.sources_E[first:end]] + best_K[self.classes_E[first:end]]
        edge = first + int(edges.argmax())
        return int(self.sources_E[edge]), int(self.classes_E[edge])
