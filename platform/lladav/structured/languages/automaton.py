"""An automaton over tokens, and the most probable sequence of tokens that it accepts.

Tokens that do the same in every state form a class, so a step looks at the vocabulary once, to find the best
token of each class. If the best classes of all positions make an accepted sequence, that is the result. Else
a dynamic program over states and positions finds the most probable accepted sequence under independent
distributions per position (DINGO, arXiv 2505.23061). It is exact for one step. Any part of the sequence may
be written: the rest of it is a completion, so no step leads to a dead end.

Shapes: V tokens of the vocabulary, K classes, S states, E edges, P pairs of states with an edge, N positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lladav.structured.languages.rows import distinct_rows

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
    """State that an edge leaves (int32); ascending among the edges of a target."""
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
    """Tokens of the longest one; None if there is no longest. No longer sequence is accepted."""

    def most_probable(self, best_NK: np.ndarray, padding_N: np.ndarray) -> tuple[np.ndarray, float]:
        """Class of each position (N), ``PADDING`` behind the end, and the log-probability of the sequence.

        ``best_NK`` is the log-probability of the most probable token of each class at each position, and
        ``padding_N`` that of padding. For a position that is written already, it is 0 for what it holds and
        minus infinity for everything else. Raises ``ValueError`` if no sequence is accepted.
        """
        classes_N, score = _best_of_any(best_NK[: self.max_tokens], padding_N)
        if not self._accepts(classes_N):
            classes_N, score = _Program(self, best_NK, padding_N).solve()
        if score == -np.inf:
            raise ValueError("no sequence of this length is accepted")
        return classes_N, score

    def _accepts(self, classes_N: np.ndarray) -> bool:
        """Whether the classes in front of the padding are those of an accepted sequence."""
        keys_E, targets_E = self._edges_by_source
        state = self.start
        for name in classes_N[classes_N != PADDING].tolist():
            key = state * self.num_classes + name
            edge = int(keys_E.searchsorted(key))
            if edge == len(keys_E) or keys_E[edge] != key:
                return False
            state = int(targets_E[edge])
        return bool(self.accepting_S[state])

    @cached_property
    def _edges_by_source(self) -> tuple[np.ndarray, np.ndarray]:
        """Source and class of each edge as one number, in ascending order, and its target."""
        keys_E = self.sources_E.astype(np.int64) * self.num_classes + self.classes_E
        order = keys_E.argsort()
        return keys_E[order], self.targets_E[order]

    @cached_property
    def pairs(self) -> StatePairs:
        """The pairs of states that edges join."""
        changes_E = (np.diff(self.sources_E) != 0) | (np.diff(self.targets_E) != 0)
        firsts_P = np.flatnonzero(np.append(True, changes_E)[: len(self.sources_E)])
        first_pair_S = np.searchsorted(self.targets_E[firsts_P], np.arange(len(self.accepting_S) + 1))
        group_P, classes, first_class_G = _group_lists(self.classes_E, firsts_P)
        return StatePairs(self.sources_E[firsts_P], group_P, first_pair_S, classes, first_class_G)


@dataclass(frozen=True, eq=False)
class StatePairs:
    """Pairs of a source and a target, in the order of targets.

    Edges of a pair differ in their class. Pairs of the same classes form a group, so the best class is found
    once for all of them. G groups.
    """

    sources_P: np.ndarray
    group_P: np.ndarray
    first_pair_S: np.ndarray
    """The first pair that enters each state, and P at the end."""
    classes: np.ndarray
    """Classes of all groups, joined."""
    first_class_G: np.ndarray
    """Where the classes of each group begin, and their number at the end (G + 1)."""

    @cached_property
    def entered(self) -> np.ndarray:
        """States that a pair enters."""
        return np.flatnonzero(np.diff(self.first_pair_S))

    def classes_of(self, group: int) -> np.ndarray:
        """The classes of a group."""
        return self.classes[self.first_class_G[group] : self.first_class_G[group + 1]]


def _group_lists(values_E: np.ndarray, firsts_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal lists among those that begin at some values: the group of each list (P), then the lists of all
    groups, joined, and where each begins, with
    their end (G + 1)."""
    lengths_P = np.diff(np.append(firsts_P, len(values_E)))
    group_P = np.zeros(len(firsts_P), dtype=np.int64)
    lists, num_groups = list[np.ndarray](), 0
    for length in np.unique(lengths_P):
        same = np.flatnonzero(lengths_P == length)
        rows = values_E[firsts_P[same][:, None] + np.arange(length)]
        firsts, groups = distinct_rows(rows.T)
        group_P[same] = num_groups + groups
        lists += list(rows[firsts])
        num_groups += len(firsts)
    ends = np.cumsum([0, *map(len, lists)])
    return group_P, np.concatenate([*lists, values_E[:0]]), ends


def _best_of_any(best_NK: np.ndarray, padding_N: np.ndarray) -> tuple[np.ndarray, float]:
    """The most probable sequence of any classes but 0, with padding behind it, and its score.

    ``best_NK`` may have fewer positions than the padding: the others are padding.
    """
    classes_N = np.full(len(padding_N), PADDING)
    if best_NK.shape[1] == 1:
        return classes_N, float(padding_N.sum())
    names = best_NK[:, 1:].argmax(axis=1) + 1
    scores = np.append(0.0, best_NK[np.arange(len(names)), names].cumsum())
    scores += _from_behind(padding_N)[: len(scores)]
    end = int(scores.argmax())
    classes_N[:end] = names[:end]
    return classes_N, float(scores[end])


def _from_behind(padding_N: np.ndarray) -> np.ndarray:
    """Score of padding from each position on (N + 1)."""
    return np.append(padding_N[::-1].cumsum()[::-1], 0.0)


class _Program:
    """The dynamic program of one step: the score of the best way to each state at each position."""

    def __init__(self, automaton: TokenAutomaton, best_NK: np.ndarray, padding_N: np.ndarray) -> None:
        self._automaton, self._pairs = automaton, automaton.pairs
        self._best_NK, self._padding_N = best_NK, padding_N
        pairs, used_NK = self._pairs, best_NK[: automaton.max_tokens]  # only padding is behind them
        self._best_NG = np.maximum.reduceat(used_NK[:, pairs.classes], pairs.first_class_G[:-1], axis=1)

    def solve(self) -> tuple[np.ndarray, float]:
        """The classes of the best sequence and its score; minus infinity if there is none."""
        reached = self._reached()
        ended = np.where(self._automaton.accepting_S, reached, -np.inf)
        scores = ended.max(axis=1) + _from_behind(self._padding_N)[: len(reached)]
        end = int(scores.argmax())
        classes_N = np.full(len(self._best_NK), PADDING)
        if scores[end] > -np.inf:
            state = int(ended[end].argmax())
            for position in range(end - 1, -1, -1):
                state, classes_N[position] = self._edge_into(state, position, reached[position])
        return classes_N, float(scores[end])

    def _reached(self) -> np.ndarray:
        """Score of the best way into each state after each number of positions, at most ``max_tokens``."""
        pairs = self._pairs
        entered = pairs.entered
        first_pairs = pairs.first_pair_S[entered]
        reached = np.full((len(self._best_NG) + 1, len(self._automaton.accepting_S)), -np.inf)
        reached[0, self._automaton.start] = 0.0
        for position, best_G in enumerate(self._best_NG):
            ways_P = reached[position, pairs.sources_P] + best_G[pairs.group_P]
            reached[position + 1, entered] = np.maximum.reduceat(ways_P, first_pairs)
        return reached

    def _edge_into(self, state: int, position: int, scores_S: np.ndarray) -> tuple[int, int]:
        """Source and class of the best edge into a state that is reached with the token of a position."""
        pairs = self._pairs
        own = slice(*pairs.first_pair_S[state : state + 2])
        ways = scores_S[pairs.sources_P[own]] + self._best_NG[position, pairs.group_P[own]]
        pair = own.start + int(ways.argmax())
        classes = pairs.classes_of(int(pairs.group_P[pair]))
        return int(pairs.sources_P[pair]), int(classes[self._best_NK[position, classes].argmax()])
