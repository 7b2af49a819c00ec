"""Turns an automaton over bytes into an automaton over tokens.

A token moves each state of the byte automaton to a state or to nowhere: it is a partial function of states.
Tokens of the same function form a class. The functions of all tokens are composed along the trie of the
vocabulary, level by level. A composition is computed once for a function and a class of bytes, so the work
depends on the number of different functions, hardly on the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import isqrt

import numpy as np

from lladav.structured.budget import READ_PER_STEP, Budget, BudgetExceeded
from lladav.structured.errors import SchemaError
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.byte_dfa import DEAD, ByteDfa
from lladav.structured.languages.graphs import longest_path, shortest_path, useful_states
from lladav.structured.languages.vocabulary import Trie, Vocabulary

MAX_LIMITED_TOKEN = 32
"""Bytes of a token where the number of tokens limits the length of a text."""
NOWHERE, IDENTITY = 0, 1
"""The function that moves all states to nowhere, and the one that moves none."""
UNKNOWN = -1
MAX_FUNCTION_STEPS = 200_000
"""Steps to find the functions of all tokens."""
PAIRS_READ_PER_STEP = 50
PAIRS_KEPT_PER_STEP = 5
"""Pairs of source and target that compositions read, and pairs of new functions, in one step."""
EDGES_PER_STEP = 1
"""Edges that are sorted and searched in one step."""
TOO_COMPLEX = "is too complex; use a simpler pattern or shorter lengths"


def token_automaton(
    dfa: ByteDfa, vocabulary: Vocabulary, budget: Budget, max_bytes: int | None = None
) -> TokenAutomaton:
    """The automaton over tokens of the vocabulary.

    With ``max_bytes``, long tokens are left out and ``max_tokens`` is so small that no text has more bytes: a
    limit that needs no states. If there are too many functions, tokens that begin or end within a character
    are left out. Raises ``SchemaError`` if that is not enough, or if no sequence of tokens is a text of the
    language.
    """
    longest = None if max_bytes is None else min(MAX_LIMITED_TOKEN, isqrt(max_bytes))
    functions = Budget(MAX_FUNCTION_STEPS, TOO_COMPLEX, budget)
    try:
        automaton = _over_tokens(dfa, vocabulary, np.ones_like(dfa.between_S), longest, functions, budget)
    except BudgetExceeded as error:
        if error.budget is not functions:
            raise
        functions = Budget(MAX_FUNCTION_STEPS, TOO_COMPLEX, budget)
        automaton = _over_tokens(dfa, vocabulary, dfa.between_S, longest, functions, budget)
    if max_bytes is None or longest is None:
        return automaton
    most = max_bytes // longest
    if automaton.min_tokens > most:
        raise SchemaError("", "is too complex; use a simpler pattern or a longer maxLength")
    most = most if automaton.max_tokens is None else min(most, automaton.max_tokens)
    return replace(automaton, max_tokens=most)


def _over_tokens(
    dfa: ByteDfa,
    vocabulary: Vocabulary,
    borders_S: np.ndarray,
    longest: int | None,
    for_functions: Budget,
    budget: Budget,
) -> TokenAutomaton:
    """The automaton of tokens that begin and end in some states and have at most ``longest`` bytes."""
    trie = vocabulary.trie
    functions = _Functions(dfa, np.flatnonzero(borders_S).astype(np.int32), for_functions)
    function_of_V = functions.of_trie(trie)[trie.node_of_V]
    too_long_V = False if longest is None else trie.node_of_V >= trie.levels_D[: longest + 2][-1]
    function_of_V[(trie.node_of_V == 0) | too_long_V] = NOWHERE
    used = np.union1d(function_of_V, [NOWHERE])
    sources_E = np.concatenate([functions.sources[each] for each in used])
    targets_E = np.concatenate([functions.targets[each] for each in used])
    classes_E = np.repeat(np.arange(len(used)), [len(functions.sources[each]) for each in used])
    kept = borders_S[targets_E]
    edges = sources_E[kept], classes_E[kept], targets_E[kept]
    return assemble(np.searchsorted(used, function_of_V), edges, dfa.start, dfa.accepting_S, budget)


def automaton_of_sequences(
    sequences: Sequence[Sequence[int]], num_tokens: int, budget: Budget
) -> TokenAutomaton:
    """An automaton that accepts some sequences of tokens."""
    trie = dict[tuple[int, int], int]()  # the state after a state and a token
    ends = list[int]()
    for ids in sequences:
        state = 0
        for token in ids:
            state = trie.setdefault((state, token), len(trie) + 1)
        ends.append(state)
    edges = [(source, token, target) for (source, token), target in trie.items()]
    edges = np.array(edges, dtype=np.int64).reshape(-1, 3)
    tokens, classes_E = np.unique(edges[:, 1], return_inverse=True)
    class_of_V = np.zeros(num_tokens, dtype=np.int32)
    class_of_V[tokens] = np.arange(1, len(tokens) + 1)
    accepting_S = np.isin(np.arange(len(trie) + 1), ends)
    numbered = edges[:, 0], classes_E.reshape(-1) + 1, edges[:, 2]
    return assemble(class_of_V, numbered, 0, accepting_S, budget)


def assemble(
    class_of_V: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    start: int,
    accepting_S: np.ndarray,
    budget: Budget,
) -> TokenAutomaton:
    """An automaton from the sources, classes and targets of edges, without useless states and classes."""
    sources_E, classes_E, targets_E = edges
    budget.spend(len(sources_E) // EDGES_PER_STEP + len(class_of_V) // READ_PER_STEP)
    useful_S = useful_states(sources_E, targets_E, start, accepting_S)
    if not useful_S[start]:
        raise SchemaError("", "has no value that the vocabulary can write", "impossible_schema")
    kept = useful_S[sources_E] & useful_S[targets_E]
    state_of_S = np.cumsum(useful_S) - 1
    sources_E, classes_E, targets_E = (
        state_of_S[sources_E[kept]],
        classes_E[kept],
        state_of_S[targets_E[kept]],
    )
    first, accepting_S = int(state_of_S[start]), accepting_S[useful_S]
    class_of, sources_E, classes_E, targets_E = _merge_classes(sources_E, classes_E, targets_E, class_of_V)
    order = np.lexsort((classes_E, sources_E, targets_E))
    return TokenAutomaton(
        class_of_V=class_of.astype(np.int32),
        num_classes=int(classes_E.max(initial=0)) + 1,
        sources_E=sources_E[order].astype(np.int32),
        classes_E=classes_E[order].astype(np.int32),
        targets_E=targets_E[order].astype(np.int32),
        start=first,
        accepting_S=accepting_S,
        min_tokens=shortest_path(sources_E, targets_E, first, accepting_S),
        max_tokens=longest_path(sources_E, targets_E, first, accepting_S),
    )


def _merge_classes(
    sources_E: np.ndarray, classes_E: np.ndarray, targets_E: np.ndarray, class_of_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """New classes of tokens, and the edges without those of classes that equal another one."""
    order = np.lexsort((targets_E, sources_E, classes_E))
    pairs = np.stack((sources_E, targets_E), axis=1)[order]
    old, firsts = np.unique(classes_E[order], return_index=True)
    new_of_old = np.zeros(int(class_of_V.max(initial=0)) + 1, dtype=np.int64)
    known: dict[bytes, int] = {}
    representatives = []
    for name, rows in zip(old, np.split(pairs, firsts[1:]), strict=False):
        number = known.setdefault(rows.tobytes(), len(known) + 1)
        new_of_old[name] = number
        if number > len(representatives):
            representatives.append(name)
    kept = np.isin(classes_E, representatives)
    return new_of_old[class_of_V], sources_E[kept], new_of_old[classes_E[kept]], targets_E[kept]


class _Functions:
    """The partial functions of states that byte sequences cause, numbered as they are found."""

    def __init__(self, dfa: ByteDfa, states: np.ndarray, budget: Budget) -> None:
        """Functions of some states."""
        self._dfa, self._budget = dfa, budget
        self._known: dict[bytes, int] = {}
        self._num_classes = dfa.targets_SB.shape[1]
        self.sources, self.targets = [states[:0], states], [states[:0], states]
        """States that each function moves, and where to."""
        self._after = np.full((64, self._num_classes), UNKNOWN, dtype=np.int32)
        """The function after one more byte, by function and class of the byte."""
        self._after[NOWHERE] = NOWHERE

    def of_trie(self, trie: Trie) -> np.ndarray:
        """The function of each node of a trie."""
        self._budget.spend(len(trie.parents_N) // READ_PER_STEP)
        function_of_N = np.full(len(trie.parents_N), NOWHERE, dtype=np.int32)
        function_of_N[0] = IDENTITY
        for first, end in pairwise(trie.levels_D[1:]):
            before = function_of_N[trie.parents_N[first:end]]
            classes = self._dfa.class_of_byte[trie.bytes_N[first:end]]
            self._compose(before, classes)
            function_of_N[first:end] = self._after[before, classes]
        return function_of_N

    def _compose(self, functions: np.ndarray, classes: np.ndarray) -> None:
        """Find the functions after one more byte that are not known yet."""
        unknown = self._after[functions, classes] == UNKNOWN
        missing = np.unique(functions[unknown].astype(np.int64) * self._num_classes + classes[unknown])
        if not len(missing):
            return
        functions, classes = np.divmod(missing, self._num_classes)
        sizes = np.array([len(self.targets[each]) for each in functions])
        self._budget.spend(len(sizes) + int(sizes.sum()) // PAIRS_READ_PER_STEP)
        sources = np.concatenate([self.sources[each] for each in functions])
        between = np.concatenate([self.targets[each] for each in functions])
        targets = self._dfa.targets_SB[between, np.repeat(classes, sizes)]
        alive = targets != DEAD
        counts = np.add.reduceat(alive, np.cumsum(sizes) - sizes, dtype=np.int64)
        found = self._numbers(sources[alive], targets[alive], counts)
        while len(self._after) < len(self.sources):
            self._after = np.concatenate((self._after, np.full_like(self._after, UNKNOWN)))
        self._after[functions, classes] = found

    def _numbers(self, sources: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> list[int]:
        """Numbers of functions, given by their pairs one after another."""
        ends = np.cumsum(counts).tolist()
        pairs = np.stack((sources, targets), axis=1).tobytes()
        width = 2 * sources.itemsize
        return [
            self._number(pairs[first * width : end * width], sources[first:end], targets[first:end])
            for first, end in pairwise([0, *ends])
        ]

    def _number(self, pairs: bytes, sources: np.ndarray, targets: np.ndarray) -> int:
        if not pairs:
            return NOWHERE
        if (number := self._known.get(pairs)) is None:
            number = self._known[pairs] = len(self.sources)
            self._budget.spend(len(sources) // PAIRS_KEPT_PER_STEP)
            self.sources.append(sources)
            self.targets.append(targets)
        return number
