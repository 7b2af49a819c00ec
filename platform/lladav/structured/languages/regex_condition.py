"""Regular expressions as conditions on strings.

A state of the condition is a set of states of the nondeterministic automaton, found when it is reached.
Assertions depend on the characters on both sides, so empty moves are followed when the next character is
known. A lookahead becomes an obligation: a condition on the rest of the string that a state carries along.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from lladav.structured.budget import Budget
from lladav.structured.languages.code_points import ANY, CodePoints, has_point
from lladav.structured.languages.regex_nfa import MATCHED, CharMove, RegexNfa
from lladav.structured.languages.regex_syntax import (
    Alternation,
    CharNode,
    Concatenation,
    Place,
    PlaceAssertion,
    RegexNode,
    Repetition,
)

ANYTHING = Repetition(CharNode(ANY), 0, None)


class Neighbour(IntEnum):
    """What stands on one side of a place in the string."""

    EDGE = 0
    """The start or the end of the string."""
    WORD = 1
    OTHER = 2


class Obligation(NamedTuple):
    """The number of a lookahead that the rest of the string must satisfy, and the state of its condition."""

    look: int
    state: int


class Thread(NamedTuple):
    """A state of the automaton, with the obligations of the way to it."""

    state: int
    obligations: frozenset[Obligation]


class ThreadSet(NamedTuple):
    """What the last character was, and the threads after it."""

    before: Neighbour
    threads: frozenset[Thread]


SETS_PER_STEP = 4
"""Sets of characters in which a code point is looked up in one step."""
FREE = frozenset[Obligation]()
ALWAYS, NEVER = 0, -1
"""States in which the expression has matched, or cannot match, whatever follows."""


class RegexCondition:
    """Strings that begin with a match of an expression."""

    settled = ALWAYS
    move_steps = 1

    def __init__(self, node: RegexNode, words: CodePoints, search: Budget) -> None:
        """``words`` are the characters that ``\\b`` takes for parts of words."""
        self._nfa, self._words, self._search = RegexNfa(node, search), words, search
        self._looks = [RegexCondition(look.node, words, search) for look in self._nfa.looks]
        self._has_bounds = bool(self._nfa.places & {Place.BOUNDARY, Place.NO_BOUNDARY})
        self._has_bounds |= any(look._has_bounds for look in self._looks)
        always = ThreadSet(Neighbour.OTHER, frozenset([Thread(MATCHED, FREE)]))
        self._sets_of_threads = [always]
        """Sets of threads; their numbers are the states of the condition."""
        self._numbers = {always: ALWAYS}
        self._known_steps: dict[tuple[int, int], int | None] = {}
        self._members: dict[int, list[bool]] = {}
        """Whether each set of characters has a code point."""

    @property
    def sets(self) -> list[CodePoints]:
        """Sets of characters that the expression tells apart."""
        own = [*self._nfa.sets, *([self._words] if self._has_bounds else [])]
        return own + [each for look in self._looks for each in look.sets]

    @property
    def start(self) -> int:
        """The state at the start of the string."""
        return self.start_after(Neighbour.EDGE)

    def start_after(self, before: Neighbour) -> int:
        """The state at a place that a character or the start of the string precedes."""
        return self._number(ThreadSet(before, frozenset([Thread(self._nfa.start, FREE)])))

    def step(self, state: int, point: int) -> int | None:
        """The state after one more character, or None if the expression can no longer match."""
        if (state, point) not in self._known_steps:
            self._known_steps[state, point] = self._new_step(self._sets_of_threads[state], point)
        return self._known_steps[state, point]

    def accepts(self, state: int) -> bool:
        """Whether the expression has matched if the string ends here."""
        threads = self._followed(self._sets_of_threads[state], Neighbour.EDGE)
        return any(each.state == MATCHED and self._are_satisfied(each.obligations) for each in threads)

    def _number(self, threads: ThreadSet) -> int:
        """The state of a set of threads."""
        number = self._numbers.setdefault(threads, len(self._numbers))
        if number == len(self._sets_of_threads):
            self._sets_of_threads.append(threads)
        return number

    def _new_step(self, threads: ThreadSet, point: int) -> int | None:
        neighbour = self._neighbour(point)
        after = set[Thread]()
        for thread in self._followed(threads, neighbour):
            if thread == (MATCHED, FREE):
                return ALWAYS
            target = self._target(thread.state, point)
            if (
                target is not None
                and (left := self._obligations_after(thread.obligations, point)) is not None
            ):
                after.add(Thread(target, left))
        return self._number(ThreadSet(neighbour, frozenset(after))) if after else None

    def _neighbour(self, point: int) -> Neighbour:
        return Neighbour.WORD if self._has_bounds and has_point(self._words, point) else Neighbour.OTHER

    def _target(self, state: int, point: int) -> int | None:
        """Where a state goes with a character."""
        if state == MATCHED:
            return MATCHED
        move = self._nfa.states[state]
        if point not in self._members:
            self._search.spend(len(self._nfa.sets) // SETS_PER_STEP)
            self._members[point] = [has_point(each, point) for each in self._nfa.sets]
        return move.target if isinstance(move, CharMove) and self._members[point][move.points] else None

    def _followed(self, start: ThreadSet, after: Neighbour) -> list[Thread]:
        """The threads after all empty moves: those that can read a character or have matched."""
        stack, seen, threads = list(start.threads), set(start.threads), list[Thread]()
        while stack:
            thread = stack.pop()
            moves = self._nfa.states[thread.state]
            self._search.spend()
            if isinstance(moves, CharMove) or thread.state == MATCHED:
                threads.append(thread)
                continue
            for move in moves:
                obligations = self._guarded(move.guard, thread.obligations, start.before, after)
                if obligations is not None and (new := Thread(move.target, obligations)) not in seen:
                    seen.add(new)
                    stack.append(new)
        return threads

    def _guarded(
        self,
        guard: Place | int | None,
        obligations: frozenset[Obligation],
        before: Neighbour,
        after: Neighbour,
    ) -> frozenset[Obligation] | None:
        """The obligations after a move with a guard, or None if the move is not possible here."""
        if guard is None:
            return obligations
        if isinstance(guard, Place):
            return obligations if _holds(guard, before, after) else None
        return obligations | {Obligation(guard, self._looks[guard].start_after(before))}

    def _obligations_after(
        self, obligations: frozenset[Obligation], point: int
    ) -> frozenset[Obligation] | None:
        """The obligations after one more character; None if one of them cannot be satisfied."""
        if not obligations:
            return obligations
        left = set[Obligation]()
        for look, state in obligations:
            after = self._looks[look].step(state, point)
            if after in (None, ALWAYS):
                if (after is None) != self._nfa.looks[look].negative:
                    return None
            else:
                left.add(Obligation(look, after))
        return frozenset(left)

    def _are_satisfied(self, obligations: frozenset[Obligation]) -> bool:
        """Whether all obligations are satisfied if the string ends here."""
        return all(
            self._looks[look].accepts(state) != self._nfa.looks[look].negative for look, state in obligations
        )


class NoMatch:
    """Strings that do not begin with a match of an expression."""

    settled = NEVER
    move_steps = 1

    def __init__(self, condition: RegexCondition) -> None:
        self._condition = condition
        self.sets, self.start = condition.sets, condition.start

    def step(self, state: int, point: int) -> int | None:
        """The state after one more character, or None if the expression has matched."""
        after = None if state == NEVER else self._condition.step(state, point)
        if after is None:
            return NEVER
        return None if after == ALWAYS else after

    def accepts(self, state: int) -> bool:
        """Whether the expression has not matched if the string ends here."""
        return state == NEVER or not self._condition.accepts(state)


def _holds(place: Place, before: Neighbour, after: Neighbour) -> bool:
    """Whether an assertion holds between two neighbours."""
    is_boundary = (before is Neighbour.WORD) != (after is Neighbour.WORD)
    match place:
        case Place.START:
            return before is Neighbour.EDGE
        case Place.END:
            return after is Neighbour.EDGE
        case Place.BOUNDARY:
            return is_boundary
        case Place.NO_BOUNDARY:
            return not is_boundary


def anywhere(node: RegexNode) -> RegexNode:
    """The expression with anything in front, as a search finds it, unless it matches at the start only."""
    return node if _is_anchored(node) else Concatenation((ANYTHING, node))


def _is_anchored(node: RegexNode) -> bool:
    """Whether every match begins at the start of the string."""
    match node:
        case PlaceAssertion(Place.START):
            return True
        case Concatenation((first, *_)) | Repetition(first, least=1, most=_):
            return _is_anchored(first)
        case Alternation(options):
            return all(map(_is_anchored, options))
    return False


def whole(node: RegexNode) -> RegexNode:
    """The expression with the end of the string behind it."""
    return Concatenation((node, PlaceAssertion(Place.END)))
