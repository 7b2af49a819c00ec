"""Reads JSON values from a decoded canvas. Every value fits its type, whatever tokens its slot contains.

The text of a slot ends at its first eos or eot; later tokens are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from lladav.inputs.chat import ChatTokenizer
from serve.structured.alignment import TokenRun
from serve.structured.schema_types import NumberType, Scalar, StringType

NUMERAL = re.compile(r"-?[0-9]{0,40}\.?[0-9]{1,40}")
INSIDE_QUOTES = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
PAD = -1
"""Stands for eos and for eot."""


class Value(Protocol):
    """Reads one JSON value from the tokens of a decoded canvas."""

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        """The JSON text of a value that fits the schema."""
        ...

    def empty(self, tokens: Sequence[int]) -> bool:
        """Whether the slot of the value is empty."""
        ...


@dataclass(frozen=True)
class Slot:
    """The canvas positions of one value."""

    positions: range
    tokenizer: ChatTokenizer
    ends: frozenset[int]
    """Ids of eos and eot."""

    def tokens(self, tokens: Sequence[int]) -> list[int]:
        """The tokens in the slot, with ``PAD`` for eos and eot."""
        return [PAD if i in self.ends else i for i in tokens[self.positions.start : self.positions.stop]]

    def text(self, tokens: Sequence[int]) -> str:
        """The text before the first eos or eot, without surrounding white space."""
        return self.tokenizer.decode(list(takewhile(lambda i: i != PAD, self.tokens(tokens)))).strip()


@dataclass(frozen=True)
class ObjectValue:
    properties: dict[str, Value]

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        yield TokenRun("{")
        for number, (name, value) in enumerate(self.properties.items()):
            yield TokenRun(f"{', ' if number else ''}{to_json(name)}: ")
            yield from value.write(tokens)
        yield TokenRun("}")

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - the protocol's signature
        return False


@dataclass(frozen=True)
class ArrayValue:
    """Drops empty items beyond the first ``min_items``."""

    items: list[Value]
    min_items: int

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        kept = [item for n, item in enumerate(self.items) if n < self.min_items or not item.empty(tokens)]
        yield TokenRun("[")
        for number, item in enumerate(kept):
            yield TokenRun(", " if number else "")
            yield from item.write(tokens)
        yield TokenRun("]")

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - the protocol's signature
        return False


@dataclass(frozen=True)
class ConstantValue:
    value: Scalar

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:  # noqa: ARG002 - the protocol's signature
        yield TokenRun(to_json(self.value))

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - the protocol's signature
        return False


@dataclass(frozen=True)
class StringValue:
    """Reads the slot as JSON: a quote mark ends the string, a backslash starts an escape."""

    type: StringType
    slot: Slot

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        text = self._text(tokens)
        value = None if not text and self.type.nullable else self.type.fit(text)
        yield from _runs(value, self.slot, quoted=value is not None)

    def empty(self, tokens: Sequence[int]) -> bool:
        return not self._text(tokens)

    def _text(self, tokens: Sequence[int]) -> str:
        """The string, without an incomplete character at the end of the slot."""
        inside = INSIDE_QUOTES.match(self.slot.text(tokens))
        text = _unescaped(inside.group() if inside else "")
        return text.encode(errors="replace").decode().rstrip("\ufffd").strip()


@dataclass(frozen=True)
class NumberValue:
    type: NumberType
    slot: Slot

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        numeral = self._numeral(tokens)
        value = None if numeral is None and self.type.nullable else self.type.fit(numeral or "0")
        yield from _runs(value, self.slot, quoted=False)

    def empty(self, tokens: Sequence[int]) -> bool:
        return self._numeral(tokens) is None

    def _numeral(self, tokens: Sequence[int]) -> str | None:
        found = NUMERAL.match(self.slot.text(tokens))
        return found.group() if found else None


@dataclass(frozen=True)
class EnumValue:
    """Chooses the alternative that agrees with the decoded tokens at most positions.

    Positions are unmasked one by one, so the tokens may mix several alternatives. If the slot may be empty,
    the last alternative is the empty one and belongs to no value.
    """

    values: tuple[Scalar, ...]
    alternatives: list[list[int]]
    """Token ids of each value, padded with ``PAD`` to the length of the slot."""
    slot: Slot

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        value = self.values[self._best(tokens, len(self.values))]
        yield from _runs(value, self.slot, quoted=all(isinstance(each, str) for each in self.values))

    def empty(self, tokens: Sequence[int]) -> bool:
        return self._best(tokens, len(self.alternatives)) >= len(self.values)

    def _best(self, tokens: Sequence[int], count: int) -> int:
        decoded = self.slot.tokens(tokens)
        matches = [sum(map(int.__eq__, decoded, each)) for each in self.alternatives[:count]]
        return matches.index(max(matches))


def to_json(value: Scalar) -> str:
    """A value as JSON text."""
    return json.dumps(value, ensure_ascii=False)


def _runs(value: Scalar, slot: Slot, quoted: bool) -> Iterator[TokenRun]:
    """The JSON text of a value that was read from a slot; quote marks around a slot are fixed text."""
    text = to_json(value)
    if not quoted:
        yield TokenRun(text, slot.positions)
        return
    yield TokenRun('"')
    yield TokenRun(text[1:-1], slot.positions)
    yield TokenRun('"')


def _unescaped(text: str) -> str:
    try:
        return json.loads(f'"{text}"', strict=False)
    except ValueError:  # an escape that is not JSON, or an incomplete one
        return text
