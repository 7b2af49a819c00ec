"""The way back from a decoded canvas to values: each reads its window, and whatever is there, fits its shape.

What is written in a window ends at the first eos or eot; what follows does not count.
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
from serve.structured.schema_types import Number, Scalar, Text

NUMERAL = re.compile(r"-?[0-9]{0,40}\.?[0-9]{1,40}")
INSIDE_QUOTES = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
PAD = -1
"""Stands for either end."""


class Value(Protocol):
    """Reads its part of a decoded canvas."""

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        """JSON of a value that fits the schema, whatever was decoded."""
        ...

    def empty(self, tokens: Sequence[int]) -> bool:
        """Whether nothing was written."""
        ...


@dataclass(frozen=True)
class Window:
    """Places of the canvas that hold one value."""

    places: range
    tokenizer: ChatTokenizer
    ends: frozenset[int]

    def tokens(self, tokens: Sequence[int]) -> list[int]:
        """What was decoded there, either end as ``PAD``."""
        return [PAD if i in self.ends else i for i in tokens[self.places.start : self.places.stop]]

    def text(self, tokens: Sequence[int]) -> str:
        """What is written before the first end."""
        return self.tokenizer.decode(list(takewhile(lambda i: i != PAD, self.tokens(tokens)))).strip()


@dataclass(frozen=True)
class Fields:
    fields: dict[str, Value]

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        yield TokenRun("{")
        for number, (name, value) in enumerate(self.fields.items()):
            yield TokenRun(f"{', ' if number else ''}{to_json(name)}: ")
            yield from value.write(tokens)
        yield TokenRun("}")

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - a protocol
        return False


@dataclass(frozen=True)
class List:
    """Items that were left empty are dropped, as far as the schema lets them."""

    items: list[Value]
    least: int

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        kept = [item for n, item in enumerate(self.items) if n < self.least or not item.empty(tokens)]
        yield TokenRun("[")
        for number, item in enumerate(kept):
            yield TokenRun(", " if number else "")
            yield from item.write(tokens)
        yield TokenRun("]")

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - a protocol
        return False


@dataclass(frozen=True)
class Fixed:
    value: Scalar

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:  # noqa: ARG002 - a protocol
        yield TokenRun(to_json(self.value))

    def empty(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002 - a protocol
        return False


@dataclass(frozen=True)
class TextValue:
    """The model writes JSON, so a quote mark ends a text and a backslash escapes."""

    shape: Text
    window: Window

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        text = self._text(tokens)
        value = None if not text and self.shape.nullable else self.shape.fit(text)
        yield from _written(value, self.window, quoted=value is not None)

    def empty(self, tokens: Sequence[int]) -> bool:
        return not self._text(tokens)

    def _text(self, tokens: Sequence[int]) -> str:
        """A character that the window cuts in two is left out at the end."""
        written = INSIDE_QUOTES.match(self.window.text(tokens))
        text = _unescaped(written.group() if written else "")
        return text.encode(errors="replace").decode().rstrip("\ufffd").strip()


def to_json(value: Scalar) -> str:
    """A value as it stands in an answer."""
    return json.dumps(value, ensure_ascii=False)


def _written(value: Scalar, window: Window, quoted: bool) -> Iterator[TokenRun]:
    """A value that was read from a window; quote marks around a window are fixed text."""
    text = to_json(value)
    if not quoted:
        yield TokenRun(text, window.places)
        return
    yield TokenRun('"')
    yield TokenRun(text[1:-1], window.places)
    yield TokenRun('"')


def _unescaped(text: str) -> str:
    try:
        return json.loads(f'"{text}"', strict=False)
    except ValueError:  # escapes of another language, or half of one
        return text


@dataclass(frozen=True)
class NumberValue:
    shape: Number
    window: Window

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        numeral = self._numeral(tokens)
        value = None if numeral is None and self.shape.nullable else self.shape.fit(numeral or "0")
        yield from _written(value, self.window, quoted=False)

    def empty(self, tokens: Sequence[int]) -> bool:
        return self._numeral(tokens) is None

    def _numeral(self, tokens: Sequence[int]) -> str | None:
        found = NUMERAL.match(self.window.text(tokens))
        return found.group() if found else None


@dataclass(frozen=True)
class ChoiceValue:
    """Places are filled one by one, so they may mix alternatives: the one that agrees at most places counts.

    An alternative beyond the values is that of nothing.
    """

    values: tuple[Scalar, ...]
    alternatives: list[list[int]]
    window: Window

    def write(self, tokens: Sequence[int]) -> Iterator[TokenRun]:
        value = self.values[self._best(tokens, len(self.values))]
        yield from _written(value, self.window, quoted=all(isinstance(each, str) for each in self.values))

    def empty(self, tokens: Sequence[int]) -> bool:
        return self._best(tokens, len(self.alternatives)) >= len(self.values)

    def _best(self, tokens: Sequence[int], count: int) -> int:
        decoded = self.window.tokens(tokens)
        agree = [sum(map(int.__eq__, decoded, each)) for each in self.alternatives[:count]]
        return agree.index(max(agree))
