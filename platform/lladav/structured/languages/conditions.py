"""Conditions on strings, read character by character, and the automaton of strings that satisfy several.

A condition is a deterministic automaton whose states are found when they are reached. Several are run side by
side, so only combinations of states that a string reaches are built.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lladav.structured.budget import Budget, BudgetExceeded
from lladav.structured.errors import SchemaError
from lladav.structured.languages.byte_dfa import DEAD
from lladav.structured.languages.char_dfa import CharDfa, minimized, trimmed
from lladav.structured.languages.code_points import ANY, CodePoints, characters, partition_of

MAX_SEARCH_STEPS = 400_000
"""Steps to find the states of an automaton."""
TOO_COMPLEX = "is too complex; use a simpler pattern or shorter limits"


class StringCondition(Protocol):
    """Strings that satisfy a condition, read by a deterministic automaton."""

    @property
    def sets(self) -> Sequence[CodePoints]:
        """Sets of characters that the condition tells apart."""
        ...

    @property
    def start(self) -> Hashable: ...

    @property
    def move_steps(self) -> int:
        """Steps that a move takes, besides those that the condition counts itself."""
        ...

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
    move_steps = 1

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


def search_budget(budget: Budget) -> Budget:
    """The part of a budget for the search for the states of one automaton."""
    return Budget(MAX_SEARCH_STEPS, TOO_COMPLEX, budget)


def dfa_of(conditions: Sequence[StringCondition], search: Budget, budget: Budget) -> CharDfa:
    """The strings that satisfy all conditions; the search for the states is a part of the budget.

    If its steps are used up, strings that reach further states are left out: those that need more characters.
    Raises ``SchemaError`` if no string is left.
    """
    partition = partition_of([ANY, *(each for condition in conditions for each in condition.sets)], budget)
    rows, complete = _rows(conditions, partition.representatives, search)
    table = np.array([row for row, _ in rows], dtype=np.int32).reshape(-1, partition.num_cells)
    table[table >= len(rows)] = DEAD
    found = CharDfa(partition, table, np.array([accepts for _, accepts in rows], dtype=bool), 0)
    if not complete and not found.accepting_S.any():
        raise SchemaError("", TOO_COMPLEX)
    return minimized(trimmed(found, budget), budget)


def _rows(
    conditions: Sequence[StringCondition], points: Sequence[int], search: Budget
) -> tuple[list[tuple[list[int], bool]], bool]:
    """Targets of each state after each point and whether it accepts, by breadth; and whether that is all."""
    start = tuple(condition.start for condition in conditions)
    numbers, queue, rows = {start: 0}, [start], list[tuple[list[int], bool]]()
    for states in queue:
        try:
            after = list(_targets(conditions, states, points, search))
            accepts = all(each.accepts(state) for each, state in zip(conditions, states, strict=True))
        except BudgetExceeded as error:
            if error.budget is not search:
                raise
            return rows, False
        new = [each for each in dict.fromkeys(after) if each is not None and each not in numbers]
        numbers.update(zip(new, range(len(queue), len(queue) + len(new)), strict=True))
        queue += new
        rows.append(([DEAD if each is None else numbers[each] for each in after], accepts))
    return rows, True


def _targets(
    conditions: Sequence[StringCondition], states: tuple[Any, ...], points: Sequence[int], search: Budget
) -> Iterator[tuple[Hashable, ...] | None]:
    """The states after each of the points; None if one of the conditions can no longer be satisfied."""
    pairs = enumerate(zip(conditions, states, strict=True))
    unsettled = [(index, each.step, state) for index, (each, state) in pairs if state != each.settled]
    search.spend(len(points) * max(1, sum(conditions[index].move_steps for index, _, _ in unsettled)))
    for point in points:
        following = list(states)
        for index, step, state in unsettled:
            following[index] = step(state, point)
            if following[index] is None:
                break
        yield None if None in following else tuple(following)
