"""Nondeterministic automata of regular expressions (Thompson)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from lladav.structured.budget import Budget
from lladav.structured.languages.code_points import CodePoints
from lladav.structured.languages.regex_syntax import (
    Alternation,
    CharNode,
    Concatenation,
    Lookahead,
    Place,
    PlaceAssertion,
    RegexNode,
    Repetition,
)

NODE_STEPS = 2
"""Steps to add a node of the syntax tree, each time that it is repeated."""
MATCHED = 0
"""The state in which the expression has matched; the rest of the string does not matter."""


class CharMove(NamedTuple):
    """A move that reads a character of a set."""

    points: int
    """Number of the set."""
    target: int


class EmptyMove(NamedTuple):
    """A move that reads nothing. A guard, an assertion or the number of a lookahead, says where it may."""

    target: int
    guard: Place | int | None = None


NfaState: TypeAlias = CharMove | list[EmptyMove]


class RegexNfa:
    """The automaton of an expression that matches at the start of a string."""

    def __init__(self, node: RegexNode, budget: Budget) -> None:
        """Raises ``BudgetExceeded`` if there are too many states."""
        self._budget = budget
        self.states: list[NfaState] = [[]]
        self.looks = list[Lookahead]()
        self.places = set[Place]()
        """Assertions that occur."""
        self._sets: dict[CodePoints, int] = {}
        self.start = self._before(node, MATCHED)

    @property
    def sets(self) -> list[CodePoints]:
        """Sets of characters by number."""
        return list(self._sets)

    def _before(self, node: RegexNode, target: int) -> int:
        """A state from which a string of the node leads to a target. States are made from back to front."""
        self._budget.spend(NODE_STEPS)
        match node:
            case CharNode(points):
                return self._add(CharMove(self._sets.setdefault(points, len(self._sets)), target))
            case PlaceAssertion(place):
                self.places.add(place)
                return self._add([EmptyMove(target, place)])
            case Lookahead():
                self.looks.append(node)
                return self._add([EmptyMove(target, len(self.looks) - 1)])
            case Concatenation(parts):
                for part in reversed(parts):
                    target = self._before(part, target)
                return target
            case Alternation(options):
                return self._add([EmptyMove(self._before(option, target)) for option in options])
            case Repetition():
                return self._before_repetition(node, target)

    def _before_repetition(self, node: Repetition, target: int) -> int:
        before = target
        if node.most is None:
            before = self._add([EmptyMove(target)])
            self.states[before] = [EmptyMove(self._before(node.node, before)), EmptyMove(target)]
        else:
            for _ in range(node.most - node.least):
                before = self._add([EmptyMove(self._before(node.node, before)), EmptyMove(target)])
        for _ in range(node.least):
            before = self._before(node.node, before)
        return before

    def _add(self, state: NfaState) -> int:
        self.states.append(state)
        return len(self.states) - 1
