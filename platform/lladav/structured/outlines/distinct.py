"""Values of a scalar that differ from each other: items of unique arrays, generated names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice

import numpy as np

from lladav.structured.forms import ConstantForm, JsonValue, NumberForm, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.building import ScalarForm, json_text
from lladav.structured.languages.graphs import distances_to_end
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.parts import Scalar
from lladav.structured.outlines.slots import SlotLayout

MAX_DISTINCT = 1024
"""Distinct values that are looked for, at most."""
MAX_WORK = 200_000
"""Texts that a search considers, at most."""
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


def shortest_values(layout: SlotLayout, encoder: TextEncoder, count: int) -> list[Distinct]:
    """Up to ``count`` distinct values of a slot, ascending by tokens.

    Whichever ``n`` values are excluded, one of the first ``n + 1`` remains, so its tokens are an upper bound
    for those of the shortest remaining value. Fewer than ``count`` are returned if there are no more or the
    search becomes too long.
    """
    found: dict[object, Distinct] = {}
    most = 0
    for text, tokens in _texts(layout.automaton, encoder, count):
        most = max(most, tokens, encoder.count(text))
        found.setdefault(key_of(value_of(text, bool(layout.quotes))), Distinct(text, most))
        if len(found) == count:
            break
    return list(found.values())


def _texts(automaton: TokenAutomaton, encoder: TextEncoder, count: int) -> Iterator[tuple[str, int]]:
    """Accepted texts with their number of tokens, breadth-first; only some of each length."""
    steps = _Steps(automaton, encoder, count)
    level, length, work = [(automaton.start, b"")], 0, 0
    while level and work < MAX_WORK:
        for state, text in level:
            if automaton.accepting_S[state]:
                yield text.decode(), length
        following = {(target, text + more) for state, text in level for target, more in steps.after(state)}
        work += len(following)
        level = sorted(following, key=steps.order)[: 2 * count + EXTRA_WIDTH]
        length += 1


class _Steps:
    """The edges of an automaton, with some tokens of each."""

    def __init__(self, automaton: TokenAutomaton, encoder: TextEncoder, count: int) -> None:
        self._automaton, self._encoder, self._count = automaton, encoder, count
        self._after: dict[int, list[tuple[int, bytes]]] = {}
        self._to_end_S = distances_to_end(automaton.sources_E, automaton.targets_E, automaton.accepting_S)

    def order(self, entry: tuple[int, bytes]) -> tuple[int, bytes]:
        """Texts that are closest to their end come first."""
        return int(self._to_end_S[entry[0]]), entry[1]

    def after(self, state: int) -> list[tuple[int, bytes]]:
        """Target and bytes of the tokens that may follow in a state."""
        if state not in self._after:
            edges = np.flatnonzero(self._automaton.sources_E == state)
            self._after[state] = [
                (int(self._automaton.targets_E[edge]), data)
                for edge in edges
                for data in self._bytes_of(int(self._automaton.classes_E[edge]))
            ]
        return self._after[state]

    def _bytes_of(self, token_class: int) -> Iterator[bytes]:
        tokens = np.flatnonzero(self._automaton.class_of_V == token_class)
        return (self._encoder.tokenizer.token_bytes(int(token)) for token in islice(tokens, self._count))


def _scalar(value: JsonValue) -> Scalar:
    """A scalar as ``value_of`` returns it."""
    return value_of(json_text(value), quoted=False)
