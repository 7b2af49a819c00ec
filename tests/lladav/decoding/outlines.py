"""Automata and outlines for tests, built by hand or at random, and what they accept by brute force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.outline import Fixed, Outline, Piece, Slot
from tests.lladav.build import TOKENS

VOCABULARY = 70
PADDING = TOKENS.eos, TOKENS.eot

Edges = Mapping[int, Mapping[int, int]]
"""Next state by token, by state; states count from 0, the start."""


def automaton_of(edges: Edges, accepting: Sequence[int], vocabulary: int = VOCABULARY) -> TokenAutomaton:
    """An automaton with these edges; every state must reach an accepting one."""
    num_states = 1 + max([0, *edges, *accepting, *(to for own in edges.values() for to in own.values())])
    table_SV = np.full((num_states, vocabulary), -1)
    for state, own in edges.items():
        for token, target in own.items():
            table_SV[state, token] = target
    columns_KS, class_of_V = np.unique(
        np.vstack((np.full((1, num_states), -1), table_SV.T)), axis=0, return_inverse=True
    )
    triples = [
        (int(target), state, k) for k, column in enumerate(columns_KS) for state, target in enumerate(column)
    ]
    targets, sources, classes = np.array(sorted(t for t in triples if t[0] >= 0)).reshape(-1, 3).T
    accepting_S = np.isin(np.arange(num_states), accepting)
    return TokenAutomaton(
        class_of_V=class_of_V.ravel()[1:].astype(np.int32),
        num_classes=len(columns_KS),
        sources_E=sources.astype(np.int32),
        classes_E=classes.astype(np.int32),
        targets_E=targets.astype(np.int32),
        start=0,
        accepting_S=accepting_S,
        min_tokens=_shortest(edges, accepting),
        max_tokens=None,
    )


def _shortest(edges: Edges, accepting: Sequence[int]) -> int:
    states, length = {0}, 0
    while not states & set(accepting):
        states = {to for state in states for to in edges.get(state, {}).values()}
        length += 1
    return length


def accepts(automaton: TokenAutomaton, tokens: Sequence[int]) -> bool:
    """Whether an automaton accepts a sequence of tokens."""
    state = automaton.start
    for token in tokens:
        edges_E = (automaton.sources_E == state) & (automaton.classes_E == automaton.class_of_V[token])
        if automaton.class_of_V[token] == 0 or not edges_E.any():
            return False
        (state,) = automaton.targets_E[edges_E].tolist()
    return bool(automaton.accepting_S[state])


def fills(slot: Slot, tokens: Sequence[int]) -> bool:
    """Whether tokens are a value of the slot and padding behind it."""
    size = next((n for n, token in enumerate(tokens) if token in PADDING), len(tokens))
    padded = all(token in PADDING for token in tokens[size:])
    return len(tokens) == slot.length and padded and accepts(slot.automaton, tokens[:size])


@dataclass(frozen=True)
class TreeOutline:
    """An outline whose choices are the same for all values."""

    pieces: Sequence[Piece]
    followers: Sequence[TreeOutline] = field(default=())

    def choices(self, values: Sequence[Sequence[int]]) -> Sequence[Outline]:
        slots = [piece for piece in self.pieces if isinstance(piece, Slot)]
        assert all(accepts(slot.automaton, own) for slot, own in zip(slots, values, strict=True))
        return self.followers

    @property
    def longest(self) -> int:
        """Positions of the longest answer."""
        own = sum(each.length for each in self.pieces)
        return own + max((each.longest for each in self.followers), default=0)

    def permits(self, tokens: Sequence[int]) -> bool:
        """Whether tokens, with padding, are an answer."""
        for piece in self.pieces:
            size = piece.length
            head, tokens = list(tokens[:size]), tokens[size:]
            if isinstance(piece, Fixed) and head != list(piece.ids):
                return False
            if isinstance(piece, Slot) and not fills(piece, head):
                return False
        if not self.followers:
            return not tokens
        return any(each.permits(tokens) for each in self.followers)


def words(*sequences: Sequence[int]) -> TokenAutomaton:
    """Accepts these sequences of tokens."""
    states: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[int, dict[int, int]] = {}
    for word in sequences:
        for n, token in enumerate(word):
            prefix, longer = tuple(word[:n]), tuple(word[: n + 1])
            states.setdefault(longer, len(states))
            edges.setdefault(states[prefix], {})[token] = states[longer]
    return automaton_of(edges, [states[tuple(word)] for word in sequences])


def repeated(*tokens: int) -> TokenAutomaton:
    """Accepts any number of these tokens."""
    return automaton_of({0: dict.fromkeys(tokens, 0)}, [0])


@st.composite
def automata(draw: st.DrawFn) -> TokenAutomaton:
    """Random automata of up to four states over ten tokens; each state has an edge towards acceptance."""
    last = draw(st.integers(0, 3))
    targets = st.dictionaries(st.integers(1, 10), st.integers(0, last), max_size=6)
    edges = {state: {draw(st.integers(1, 10)): state + 1} for state in range(last)}
    edges = {state: {**draw(targets), **edges.get(state, {})} for state in range(last + 1)}
    accepting = draw(st.sets(st.integers(0, last)))
    return automaton_of(edges, [*accepting, last])


AUTOMATA = [repeated(1, 2, 3), words((4, 5), (4, 6, 7), (8,)), words((), (1,), (1, 2)), repeated(*range(60))]


def records(count: int) -> TreeOutline:
    """Up to ``count`` records: an optional number, then a word of one of two kinds."""
    more = [records(count - 1)] if count > 1 else []
    ends = [TreeOutline([Fixed((20,))]), *more]
    kinds = [
        TreeOutline([Fixed((11, kind)), Slot(words((4, 5), (4, 6, 7), (8,)), 4), Fixed((13,))], ends)
        for kind in (14, 15)
    ]
    number = TreeOutline([Fixed((12,)), Slot(repeated(1, 2, 3), 3)], kinds)
    return TreeOutline([Fixed((10,))], [number, *kinds])


RECORDS = records(2)
"""An outline with choices one after another, and up to four slots."""


@st.composite
def outlines(draw: st.DrawFn, depth: int = 2) -> TreeOutline:
    """Random outlines; alternatives may have equal beginnings, also of slots."""
    fixed = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(lambda ids: Fixed(tuple(ids)))
    slots = st.tuples(st.sampled_from(AUTOMATA), st.integers(0, 2)).map(
        lambda each: Slot(each[0], each[0].min_tokens + each[1])
    )
    pieces = draw(st.lists(st.one_of(fixed, slots), max_size=3))
    followers = draw(st.lists(outlines(depth - 1), max_size=3)) if depth else []
    return TreeOutline(tuple(pieces), tuple(followers))
