"""Plays the decoding engine with random choices and random values: any outline has to survive it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.graphs import distances_to_end
from lladav.structured.outline import Fixed, Outline


@dataclass(frozen=True)
class Walk:
    """An answer."""

    text: str
    positions: int
    """Canvas positions, with the padding behind short values."""
    choices: int
    """How often there was more than one outline to choose from."""


def random_walk(outline: Outline, tokenizer: ChatTokenizer, rng: random.Random) -> Walk:
    """Write an answer with random members of slots and random choices."""
    data, positions, choices = b"", 0, 0
    while True:
        values = list[Sequence[int]]()
        for piece in outline.pieces:
            fixed = isinstance(piece, Fixed)
            ids = piece.ids if fixed else random_member(piece.automaton, piece.length, rng)
            written = b"".join(map(tokenizer.token_bytes, ids))
            values += [] if fixed else [ids]
            data, positions = data + written, positions + (len(ids) if fixed else piece.length)
        following = outline.choices(values)
        if not following:
            return Walk(data.decode(), positions, choices)
        choices += len(following) > 1
        assert len(following) == 1 or all(each.pieces for each in following)
        outline = rng.choice(following)


def random_member(automaton: TokenAutomaton, length: int, rng: random.Random) -> list[int]:
    """Tokens of at most ``length`` that an automaton accepts; short and long ones."""
    graph, state, ids = _Graph(automaton), automaton.start, list[int]()
    stopping = rng.choice((0.0, 0.1, 0.5))
    while not (automaton.accepting_S[state] and rng.random() < stopping):
        steps = graph.steps(state, length - len(ids) - 1)
        if not steps:
            break
        token_class, state = rng.choice(steps)
        ids.append(int(rng.choice(graph.tokens(token_class))))
    assert automaton.accepting_S[state]
    return ids


@dataclass(frozen=True)
class _Graph:
    automaton: TokenAutomaton

    @cached_property
    def to_end_S(self) -> np.ndarray:
        """Tokens from each state to an accepting one."""
        automaton = self.automaton
        return distances_to_end(automaton.sources_E, automaton.targets_E, automaton.accepting_S)

    def steps(self, state: int, left: int) -> list[tuple[int, int]]:
        """Class and target of the edges from which an end is at most ``left`` tokens away."""
        edges = np.flatnonzero(self.automaton.sources_E == state)
        edges = edges[self.to_end_S[self.automaton.targets_E[edges]] <= left]
        return [(int(self.automaton.classes_E[e]), int(self.automaton.targets_E[e])) for e in edges]

    def tokens(self, token_class: int) -> np.ndarray:
        return np.flatnonzero(self.automaton.class_of_V == token_class)
