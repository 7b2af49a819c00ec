"""The most probable sequence of a large automaton, by a smaller one that accepts more.

Automata that count, such as those of strings with a largest length, have hundreds of copies of a few states.
Merging states gives an automaton that accepts more sequences and has the same classes. If its most probable
sequence is one that the original accepts, it is the most probable one of the original, too. Otherwise, as for
a text that is longer than permitted, the original is searched.

Shapes: S states, K classes, E edges, N positions, G signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lladav.structured.languages.automaton import PADDING, TokenAutomaton

CACHED = 128
LARGE = 2000
"""Edges above which an automaton is worth merging its states."""
GAIN = 4
"""How many times fewer edges the merged automaton must have."""


def most_probable(
    automaton: TokenAutomaton, best_NK: np.ndarray, padding_N: np.ndarray
) -> tuple[np.ndarray, float]:
    """The result of ``automaton.most_probable``, faster for a large automaton."""
    if (relaxation := relaxation_of(automaton)) is not None:
        classes_N, score = relaxation.merged.most_probable(best_NK, padding_N)
        if relaxation.accepts(classes_N):
            return classes_N, score
    return automaton.most_probable(best_NK, padding_N)


@lru_cache(CACHED)
def relaxation_of(automaton: TokenAutomaton) -> Relaxation | None:
    """The relaxation of an automaton, if it is much smaller."""
    if len(automaton.classes_E) < LARGE:
        return None
    relaxation = Relaxation(automaton)
    gain = len(automaton.classes_E) / max(1, len(relaxation.merged.classes_E))
    return relaxation if gain >= GAIN else None


@dataclass(frozen=True)
class Relaxation:
    """An automaton, and the one in which states are merged if one can do all that the other can."""

    automaton: TokenAutomaton

    @cached_property
    def merged(self) -> TokenAutomaton:
        """The automaton with merged states; several edges of a class may leave a state."""
        automaton, state_of_S = self.automaton, self._merged_states()
        edges = state_of_S[automaton.targets_E], state_of_S[automaton.sources_E], automaton.classes_E
        targets_E, sources_E, classes_E = np.unique(np.stack(edges), axis=1)
        return TokenAutomaton(
            class_of_V=automaton.class_of_V,
            num_classes=automaton.num_classes,
            sources_E=sources_E,
            classes_E=classes_E,
            targets_E=targets_E,
            start=int(state_of_S[automaton.start]),
            accepting_S=np.bincount(state_of_S, automaton.accepting_S) > 0,
            min_tokens=0,
            max_tokens=None,
        )

    def accepts(self, classes_N: np.ndarray) -> bool:
        """Whether the original automaton accepts a sequence, which ends at ``PADDING``."""
        keys_E, targets_E = self._transitions
        state = self.automaton.start
        for each in classes_N[classes_N != PADDING].tolist():
            edge = int(np.searchsorted(keys_E, (key := state * self.automaton.num_classes + each)))
            if edge == len(keys_E) or keys_E[edge] != key:
                return False
            state = int(targets_E[edge])
        return bool(self.automaton.accepting_S[state])

    @cached_property
    def _transitions(self) -> tuple[np.ndarray, np.ndarray]:
        """Source and class of each edge as one ascending number, and its target."""
        automaton = self.automaton
        keys_E = automaton.sources_E.astype(np.int64) * automaton.num_classes + automaton.classes_E
        order_E = np.argsort(keys_E)
        return keys_E[order_E], automaton.targets_E[order_E]

    def _merged_states(self) -> np.ndarray:
        """The merged state of each state (S)."""
        automaton = self.automaton
        leaves_SK = np.zeros((len(automaton.accepting_S), automaton.num_classes), bool)
        leaves_SK[automaton.sources_E, automaton.classes_E] = True
        # Rows as bytes: unique compares them much faster than rows of bool.
        packed_SB = np.ascontiguousarray(np.packbits(leaves_SK, axis=1))
        rows_S = packed_SB.view(np.dtype((np.void, packed_SB.shape[1])))[:, 0]
        _, first_G, signature_S = np.unique(rows_S, return_index=True, return_inverse=True)
        return _covers(leaves_SK[first_G])[signature_S.ravel()]


def _covers(leaves_GK: np.ndarray) -> np.ndarray:
    """The merged state of each signature (G): that of the first larger one that has all of its classes."""
    state_of_G = np.empty(len(leaves_GK), np.int64)
    covers = np.empty((0, leaves_GK.shape[1]), bool)
    for index in np.argsort(-leaves_GK.sum(1), kind="stable"):
        (covering,) = np.nonzero(~(leaves_GK[index] & ~covers).any(1))
        if not len(covering):
            covering, covers = [len(covers)], np.vstack((covers, leaves_GK[index]))
        state_of_G[index] = covering[0]
    return state_of_G
