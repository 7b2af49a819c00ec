"""Conditions on strings, read character by character, and the automaton of strings that satisfy several.

A condition is a deterministic automaton whose states are found when they are reached. Several are run side by
side, so only combinations of states that a string reaches are built.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lladav.structured.errors import SchemaError
from lladav.structured.languages.byte_dfa import DEAD
from lladav.structured.languages.char_dfa import CharDfa, minimized, trimmed
from lladav.structured.languages.code_points import ANY, CodePoints, characters, partition_of

MAX_WORK = 400_000
"""Steps that the search for the states of an automaton may take."""


class WorkUsedUp(Exception):
    """The work is done that a search may do."""


class Work:
    """Counts the steps of a search, so that any expression is bounded without a clock."""

    def __init__(self, steps: int = MAX_WORK) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Count steps; raises ``WorkUsedUp`` if fewer are left."""
        self._left -= steps
        if self._left < 0:
            raise WorkUsedUp


class StringCondition(Protocol):
    """Strings that satisfy a condition, read by a deterministic automaton."""

    @property
    def sets(self) -> Sequence[CodePoints]:
        """Sets of characters that the condition tells apart."""
        ...

    @property
    def start(self) -> Hashable: ...

    @property
    def settled(self) -> Hashable | None:
        """The state in which every continuation satisfies the condition; None if there is no such state."""
        ...

    def step(self, state: Any, point: int, /) -> Hashable | None:
        """The state after the character of a code point; None if no such string continues so."""
        ...

    def accepts(self, state: Any, /) -> bool:
        """Whether a string that ends in the state satisfies the condition."""
        ...


class NoneOf:
    """Strings other than some texts. A state is a node of their trie, or ``OUTSIDE``."""

    OUTSIDE = -1

    def __init__(self, texts: Iterable[str]) -> None:
        self.start, self.settled = 0, self.OUTSIDE
        self._trie = dict[tuple[int, str], int]()
        self._ends = set[int]()
        for text in texts:
            node = self.start
            for character in text:
                node = self._trie.setdefault((node, character), len(self._trie) + 1)
            self._ends.add(node)
        self.sets = [characters(each) for each in sorted({character for _, character in self._trie})]

    def step(self, state: int, point: int) -> int:
        return self._trie.get((state, chr(point)), self.OUTSIDE)

    def accepts(self, state: int) -> bool:
        return state not in self._ends


def dfa_of(conditions: Sequence[StringCondition], work: Work) -> CharDfa:
    """The strings that satisfy all conditions.

    If the work is used up, strings that reach further states are left out: those that need more characters.
    Raises ``SchemaError`` if no string is left.
    """
    partition = partition_of([ANY, *(each for condition in conditions for each in condition.sets)])
    rows, complete = _rows(conditions, partition.representatives, work)
    table = np.array([row for row, _ in rows], dtype=np.int32)
    table[table >= len(rows)] = DEAD
    try:
        return minimized(trimmed(CharDfa(partition, table, np.array([accepts for _, accepts in rows]), 0)))
    except SchemaError:
        if complete:
            raise
        raise SchemaError("", "is too complex; use a simpler pattern or shorter limits") from None


def _rows(
    conditions: Sequence[StringCondition], points: Sequence[int], work: Work
) -> tuple[list[tuple[list[int], bool]], bool]:
    """Targets of each state after each point and whether it accepts, by breadth; and whether that is all."""
    start = tuple(condition.start for condition in conditions)
    numbers, queue, rows = {start: 0}, [start], list[tuple[list[int], bool]]()
    for states in queue:
        try:
            after = list(_targets(conditions, states, points, work))
            accepts = all(each.accepts(state) for each, state in zip(conditions, states, strict=True))
        except WorkUsedUp:
            return rows, False
        new = [each for each in dict.fromkeys(after) if each is not None and each not in numbers]
        numbers.update(zip(new, range(len(queue), len(queue) + len(new)), strict=True))
        queue += new
        rows.append(([DEAD if each is None else numbers[each] for each in after], accepts))
    return rows, True


def _targets(
    conditions: Sequence[StringCondition], states: tuple[Any, ...], points: Sequence[int], work: Work
) -> Iterator[tuple[Hashable, ...] | None]:
    """The states after each of the points; None if one of the conditions can no longer be satisfied."""
    pairs = enumerate(zip(conditions, states, strict=True))
    unsettled = [(index, each.step, state) for index, (each, state) in pairs if state != each.settled]
    for point in points:
        work.spend(max(1, len(unsettled)))
        following = list(states)
        for index, step, state in unsettled:
            following[index] = step(state, point)
            if following[index] is None:
                break
        yield None if None in following else tuple(following)
