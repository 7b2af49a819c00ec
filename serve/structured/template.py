"""Structured output: the fixed parts of a JSON answer are on the canvas from the first step, and diffusion
fills in the values, all of them at a time.

A value is a *window* of so many places. What is written in it ends at the first eos or eot, which are allowed
there as padding, so a request must have no stop of these ids. Whatever windows end up with, even a stray
token, ``finish`` reads a value out of it that fits the schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lladav.inputs.chat import ChatTokenizer
from serve.errors import ApiError
from serve.structured.alignment import bytes_of_tokens
from serve.structured.json_schema import ROOT, read_schema
from serve.structured.schema_types import Choice, Items, Number, ObjectType, Shape, Text
from serve.structured.slots import (
    PAD,
    ChoiceValue,
    Fields,
    Fixed,
    List,
    NumberValue,
    TextValue,
    Value,
    Window,
    to_json,
)

CHARACTERS = 3
"""Of a token, where a text has a length: English has more, and short texts get a place for each."""
WHOLE, FRACTION = 10, 4
"""Places of a number without bounds: before the point, and from the point on."""
LONGEST = 20
"""Places before the point, at most, whatever the bounds are."""
PIECES = 10_000
"""Pieces of a layout after which its length is no longer counted."""


class Skeleton:
    """The canvas of an answer that is JSON of a schema, and the way back from tokens to JSON."""

    def __init__(
        self, schema: object, tokenizer: ChatTokenizer, value_tokens: int, max_tokens: int, characters: int
    ) -> None:
        """``value_tokens`` are the places of a text without ``maxLength``, ``max_tokens`` the longest canvas,
        ``characters`` what may be encoded.

        Raises ``ApiError`` for a schema with more than is supported, and for one that takes a longer canvas
        or more characters.
        """
        layout = _Layout(tokenizer, value_tokens, max(PIECES, 8 * max_tokens), characters)
        shape = read_schema(schema)
        try:
            self._value = layout.place(shape)
            self.max_tokens = layout.flush()
        except _EndlessError:
            raise _too_long(f"more than {max_tokens}", max_tokens) from None
        if self.max_tokens > max_tokens:
            raise _too_long(str(self.max_tokens), max_tokens)
        self._token_bytes = tokenizer.token_bytes
        self.infill = layout.infill
        """The fixed parts; places from ``max_tokens`` on are for the caller to fill up."""
        self.allowed = layout.allowed
        """What places of numbers and choices may become; those of texts become anything."""

    def finish(self, tokens: Sequence[int]) -> str:
        """JSON that fits the schema, from the canvas as it was decoded."""
        return "".join(part.text for part in self._value.write(tokens))

    def bytes_of_tokens(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of ``finish`` that each token of the canvas stands for; none for those behind it."""
        written = [self._token_bytes(token) for token in tokens[: self.max_tokens]]
        shares = bytes_of_tokens(self._value.write(tokens), written)
        return [*shares, *[b""] * (len(tokens) - len(shares))]


def _too_long(needed: str, limit: int) -> ApiError:
    message = (
        f"the schema takes {needed} tokens and max_tokens is {limit}; raise max_tokens, or lower maxLength "
        "and maxItems"
    )
    return ApiError(400, message, code="schema_too_long", param="max_tokens")


def _too_wordy(limit: int) -> ApiError:
    message = (
        f"{ROOT}: its names and values have more than {limit} characters, written out as often as they are "
        "used; shorten them"
    )
    return ApiError(400, message, code="context_length_exceeded", param=ROOT)


class _EndlessError(Exception):
    """A layout goes on and on."""


@dataclass(frozen=True)
class _Vocabulary:
    """Ids that windows ask about."""

    digits: tuple[int, ...]
    minus: tuple[int, ...]
    point: tuple[int, ...]
    ends: tuple[int, ...]


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: ChatTokenizer) -> _Vocabulary:
    """Numerals of up to three digits that are a token: vocabularies have no longer ones."""

    def tokens(texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(ids[0] for ids in map(tokenizer.encode, texts) if len(ids) == 1)

    numerals = (f"{number:0{width}}" for width in (1, 2, 3) for number in range(10**width))
    ids = tokenizer.ids
    return _Vocabulary(tokens(numerals), tokens(["-"]), tokens(["."]), tuple({ids.eot: 0, ids.eos: 0}))


class _Layout:
    """A canvas while it is laid out; text that is not interrupted by a window is encoded as a whole."""

    def __init__(self, tokenizer: ChatTokenizer, value_tokens: int, pieces: int, characters: int) -> None:
        self.infill: dict[int, int] = {}
        self.allowed: dict[int, tuple[int, ...]] = {}
        self._tokenizer, self._value_tokens = tokenizer, value_tokens
        self._vocabulary = _vocabulary(tokenizer)
        self._length, self._left = 0, pieces
        self._characters, self._used = characters, 0
        self._text: list[str] = []

    def place(self, shape: Shape, may_miss: bool = False) -> Value:
        """Append a value; one that may miss can be left empty."""
        match shape:
            case ObjectType():
                return self._record(shape)
            case Items():
                return self._items(shape)
            case Text():
                return self._quoted(shape)
            case Number():
                return self._number(shape, may_miss or shape.nullable)
            case Choice():
                return self._choice(shape, may_miss)

    def flush(self) -> int:
        """Encode the text so far; the length of the canvas."""
        for token in self._tokenizer.encode("".join(self._text)) if self._text else []:
            self.infill[self._length] = token
            self._length += 1
        self._text.clear()
        return self._length

    def _write(self, text: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise _EndlessError
        self._use(len(text))
        self._text.append(text)

    def _use(self, characters: int) -> None:
        """Count what is to be encoded, before it is."""
        self._used += characters
        if self._used > self._characters:
            raise _too_wordy(self._characters)

    def _window(self, places: int) -> Window:
        start = self.flush()
        self._length += places
        return Window(range(start, self._length), self._tokenizer, frozenset(self._vocabulary.ends))

    def _record(self, shape: ObjectType) -> Value:
        fields = {}
        for number, (name, field) in enumerate(shape.fields.items()):
            self._write(f"{', ' if number else '{'}{to_json(name)}: ")
            fields[name] = self.place(field)
        self._write("}" if fields else "{}")
        return Fields(fields)

    def _items(self, shape: Items) -> Value:
        items = []
        for number in range(shape.most):
            self._write(", " if number else "[")
            items.append(self.place(shape.item, may_miss=number >= shape.least))
        self._write("]" if items else "[]")
        return List(items, shape.least)

    def _quoted(self, shape: Text) -> Value:
        self._write('"')
        window = self._window(_text_places(shape, self._value_tokens))
        self._write('"')
        return TextValue(shape, window)

    def _number(self, shape: Number, may_miss: bool) -> Value:
        vocabulary = self._vocabulary
        window = self._window(_number_places(shape))
        minus = vocabulary.minus if shape.low < 0 else ()
        point = vocabulary.point if shape.multiple is None else ()
        first = (*vocabulary.digits, *minus, *(vocabulary.ends if may_miss else ()))
        later = (*vocabulary.digits, *point, *vocabulary.ends)
        self.allowed |= {place: later if n else first for n, place in enumerate(window.places)}
        return NumberValue(shape, window)

    def _choice(self, shape: Choice, may_miss: bool) -> Value:
        values = {to_json(value): value for value in shape.values}
        if len(values) == 1 and not may_miss:
            self._write(*values)
            return Fixed(*values.values())
        quote = '"' if all(isinstance(value, str) for value in values.values()) else ""
        self._write(quote)
        self._use(len(values) * max(map(len, values)))  # each is padded to the longest
        encoded = [self._tokenizer.encode(text[1:-1] if quote else text) for text in values]
        window = self._window(max(map(len, encoded)))
        alternatives = [_padded(ids, len(window.places)) for ids in (*encoded, *([[]] if may_miss else []))]
        for place, *ids in zip(window.places, *alternatives, strict=True):
            self._allow(place, ids)
        self._write(quote)
        return ChoiceValue(tuple(values.values()), alternatives, window)

    def _allow(self, place: int, ids: Sequence[int]) -> None:
        """Ids of alternatives at a place; one that they agree on is fixed."""
        if len(set(ids)) == 1:
            self.infill[place] = ids[0]
            return
        ends = self._vocabulary.ends if PAD in ids else ()
        self.allowed[place] = (*dict.fromkeys(i for i in ids if i != PAD), *ends)


def _text_places(shape: Text, value_tokens: int) -> int:
    length = shape.shortest if shape.longest is None else shape.longest
    places = max(value_tokens, -(-length // CHARACTERS))
    return places if shape.longest is None else min(places, shape.longest)


def _number_places(shape: Number) -> int:
    """Room for both bounds; where one is missing, for ordinary numbers at least."""
    bounds = (shape.low, shape.high)
    lengths = [len(str(int(bound))) if math.isfinite(bound) else WHOLE for bound in bounds]
    whole = min(max(lengths), LONGEST)
    return whole if shape.multiple is not None else whole + FRACTION


def _padded(ids: Sequence[int], length: int) -> list[int]:
    return [*ids, *[PAD] * (length - len(ids))]
