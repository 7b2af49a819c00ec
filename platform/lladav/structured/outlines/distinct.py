"""Values of a scalar that differ from each other: items of unique arrays, generated names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lladav.structured.budget import SORTED_PER_STEP, Budget, BudgetExceeded
from lladav.structured.forms import ConstantForm, JsonValue, NumberForm, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.building import ScalarForm, json_text
from lladav.structured.languages.graphs import distances_to_end
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.parts import Scalar
from lladav.structured.outlines.slots import SlotLayout

MAX_DISTINCT = 1024
"""Distinct values that are looked for, at most."""
MAX_STEPS = 400_000
TEXT_STEPS = 2
"""Steps of a search, and of each text that it considers."""
EXTRA_WIDTH = 64
"""Texts of one length that a search keeps, besides two for each value."""


@dataclass(frozen=True)
class Distinct:
    """A value of a slot."""

    text: str
    tokens: int
    """As many tokens are enough for it, and for all values found before it."""


def value_of(text: str, quoted: bool) -> Scalar:
    """The value of a slot's text; ``quoted`` if quotation marks stand around the slot."""
    return json.loads(f'"{text}"' if quoted else text, parse_int=Fraction, parse_float=Fraction)


def key_of(value: Scalar) -> object:
    """Equal for equal JSON values: 1 and true are not, although they are in Python."""
    return type(value), value


def without(forms: Sequence[ScalarForm], values: Sequence[Scalar]) -> list[ScalarForm]:
    """The forms without some values."""
    strings = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(value for value in values if isinstance(value, Fraction))
    keys = set(map(key_of, values))
    remaining = list[ScalarForm]()
    for form in forms:
        match form:
            case StringForm():
                remaining.append(replace(form, excluded=form.excluded | strings))
            case NumberForm():
                remaining.append(replace(form, excluded=form.excluded | numbers))
            case ConstantForm():
                left = tuple(value for value in form.values if key_of(_scalar(value)) not in keys)
                remaining += [ConstantForm(left)] if left else []
    return remaining


def shortest_values(layout: SlotLayout, encoder: TextEncoder, count: int, budget: Budget) -> list[Distinct]:
    """Up to ``count`` distinct values of a slot, ascending by tokens.

    Whichever ``n`` values are excluded, one of the first ``n + 1`` remains, so its tokens are an upper bound
    for those of the shortest remaining value. Fewer than ``count`` are returned if there are no more or the
    search becomes too long.
    """
    found: dict[object, Distinct] = {}
    most = 0
    search = Budget(MAX_STEPS, "has too many values", budget)
    for text, tokens in _texts(layout.automaton, encoder, count, search):
        most = max(most, tokens, encoder.count(text))
        found.setdefault(key_of(value_of(text, bool(layout.quotes))), Distinct(text, most))
        if len(found) == count:
            break
    return list(found.values())


def _texts(
    automaton: TokenAutomaton, encoder: TextEncoder, count: int, budget: Budget
) -> Iterator[tuple[str, int]]:
    """Accepted texts with their number of tokens, breadth-first; only some of each length.

    There are no more when the budget is used up.
    """
    level, length = [(automaton.start, b"")], 0
    with contextlib.suppress(BudgetExceeded):
        steps = _Steps(automaton, encoder, count, budget)
        while level:
            for state, text in level:
                if automaton.accepting_S[state]:
                    yield text.decode(), length
            longer = {(target, text + more) for state, text in level for target, more in steps.after(state)}
            level = sorted(longer, key=steps.order)[: 2 * count + EXTRA_WIDTH]
            length += 1


class _Steps:
    """The edges of an automaton, with some tokens of each."""

    def __init__(self, automaton: TokenAutomaton, encoder: TextEncoder, count: int, budget: Budget) -> None:
        """At most ``count`` tokens of each edge."""
        budget.spend((len(automaton.sources_E) + len(automaton.class_of_V)) // SORTED_PER_STEP)
        self._automaton, self._encoder, self._count, self._budget = automaton, encoder, count, budget
        self._edges, self._first_edge_S = _grouped(automaton.sources_E, len(automaton.accepting_S))
        self._tokens, self._first_token_K = _grouped(automaton.class_of_V, automaton.num_classes)
        self._to_end_S = distances_to_end(automaton.sources_E, automaton.targets_E, automaton.accepting_S)

    def order(self, entry: tuple[int, bytes]) -> tuple[int, bytes]:
        """Texts that are closest to their end come first."""
        return int(self._to_end_S[entry[0]]), entry[1]

    def after(self, state: int) -> Iterator[tuple[int, bytes]]:
        """Target and bytes of the tokens that may follow in a state."""
        for edge in self._edges[self._first_edge_S[state] : self._first_edge_S[state + 1]]:
            target, name = int(self._automaton.targets_E[edge]), self._automaton.classes_E[edge]
            first, end = self._first_token_K[name : name + 2]
            tokens = self._tokens[first : min(end, first + self._count)].tolist()
            self._budget.spend(TEXT_STEPS * len(tokens))
            yield from ((target, self._encoder.tokenizer.token_bytes(token)) for token in tokens)


def _grouped(group_of: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices in the order of their groups, and where each group begins, with the end."""
    order = group_of.argsort(kind="stable")
    return order, np.searchsorted(group_of[order], np.arange(num_groups + 1))


def _scalar(value: JsonValue) -> Scalar:
    """A scalar as ``value_of`` returns it."""
    return value_of(json_text(value), quoted=False)
