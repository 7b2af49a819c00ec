"""Conditions on strings, read character by character, and the automaton of strings that satisfy several.

A condition is a deterministic automaton whose states are found when they are reached. Several are run side by
side, so only combinations of states that a string reaches are built.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from lladav.structured.errors import SchemaError
from lladav.structured.languages.byte_dfa import DEAD
from lladav.structured.languages.char_dfa import MAX_STATES, CharDfa, minimized, trimmed
from lladav.structured.languages.code_points import ANY, CodePoints, characters, partition_of

MAX_STEPS = 300_000
"""Steps of all states of an automaton."""


class Condition(Protocol):
    """Strings that satisfy a condition, read by a deterministic automaton."""

    @property
    def sets(self) -> Sequence[CodePoints]:
        """Sets of characters that the condition tells apart."""
        ...

    @property
    def start(self) -> Hashable: ...

    def step(self, state: Any, point: int, /) -> Hashable | None:
        """The state after the character of a code point; None if no such string continues so."""
        ...

    def accepts(self, state: Any, /) -> bool:
        """Whether a string that ends in the state satisfies the condition."""
        ...


class Not:
    """Strings that do not satisfy a condition."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self.sets, self.start = condition.sets, condition.start

    def step(self, state: Any, point: int) -> Hashable:
        return "outside" if state == "outside" else self._condition.step(state, point) or "outside"

    def accepts(self, state: Any) -> bool:
        return state == "outside" or not self._condition.accepts(state)


class NoneOf:
    """Strings other than some. A state is what was read, while it begins one of them; else it is empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(texts)
        self._prefixes = frozenset(text[:end] for text in self._texts for end in range(len(text) + 1))
        self.sets = [characters(each) for each in sorted(set().union(*self._texts))]
        self.start = (True, "")

    def step(self, state: tuple[bool, str], point: int) -> tuple[bool, str]:
        follows, read = state
        longer = read + chr(point)
        return (True, longer) if follows and longer in self._prefixes else (False, "")

    def accepts(self, state: tuple[bool, str]) -> bool:
        follows, read = state
        return not (follows and read in self._texts)


def dfa_of(conditions: Sequence[Condition]) -> CharDfa:
    """The strings that satisfy all conditions.

    Raises ``SchemaError`` if there is none, or if the automaton has too many states.
    """
    partition = partition_of([ANY, *(each for condition in conditions for each in condition.sets)])
    start = tuple(condition.start for condition in conditions)
    numbers, queue = {start: 0}, [start]
    rows, accepting = [], []
    for states in queue:
        row = []
        for point in partition.representatives:
            after = _step(conditions, states, point)
            if after is not None and after not in numbers:
                numbers[after] = len(queue)
                queue.append(after)
            row.append(DEAD if after is None else numbers[after])
        rows.append(row)
        accepting.append(all(each.accepts(state) for each, state in zip(conditions, states, strict=True)))
        if len(queue) > MAX_STATES or len(rows) * len(row) > MAX_STEPS:
            raise SchemaError("", "is too complex; use a simpler pattern")
    table = np.array(rows, dtype=np.int32)
    return minimized(trimmed(CharDfa(partition, table, np.array(accepting), 0)))


def _step(conditions: Sequence[Condition], states: Sequence[Any], point: int) -> tuple[Hashable, ...] | None:
    """The states after one more character; None if one of the conditions can no longer be satisfied."""
    following = []
    for condition, state in zip(conditions, states, strict=True):
        after = condition.step(state, point)
        if after is None:
            return None
        following.append(after)
    return tuple(following)
