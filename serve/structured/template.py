"""The canvas of a JSON answer: fixed parts are set before the first step, diffusion fills in all values.

A value has a slot, a range of canvas positions. The text of a slot ends at the first eos or eot, which are
allowed there as padding, so the request must not have a stop token with one of these ids. ``render`` reads a
valid value from every slot, whatever tokens it contains.
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
from serve.structured.schema_types import ArrayType, EnumType, NumberType, ObjectType, SchemaType, StringType
from serve.structured.slots import (
    PAD,
    ArrayValue,
    ConstantValue,
    EnumValue,
    NumberValue,
    ObjectValue,
    Slot,
    StringValue,
    Value,
    to_json,
)

CHARACTERS_PER_TOKEN = 3
"""For strings with a length. English text has more; a short string gets one position per character."""
INTEGER_DIGITS, FRACTION_DIGITS = 10, 4
"""Positions of an unbounded number: before the decimal point, and from the point on."""
MAX_INTEGER_DIGITS = 20
"""Positions before the decimal point, at most, whatever the bounds are."""
MAX_PARTS = 10_000
"""Text parts of a template after which its length is no longer counted."""


class JsonTemplate:
    """The canvas of a JSON answer, and the way back from its tokens to JSON."""

    def __init__(
        self, schema: object, tokenizer: ChatTokenizer, value_tokens: int, max_tokens: int, characters: int
    ) -> None:
        """``value_tokens`` is the slot length of a string without ``maxLength``; ``max_tokens`` limits the
        canvas and ``characters`` the text that is encoded.

        Raises ``ApiError`` for an unsupported schema, and for one that exceeds a limit.
        """
        builder = _Builder(tokenizer, value_tokens, max(MAX_PARTS, 8 * max_tokens), characters)
        root = read_schema(schema)
        try:
            self._value = builder.add(root)
            self.length = builder.flush()
        except _TooManyPartsError:
            raise _too_long(f"more than {max_tokens}", max_tokens) from None
        if self.length > max_tokens:
            raise _too_long(str(self.length), max_tokens)
        self._token_bytes = tokenizer.token_bytes
        self.infill = builder.infill
        """Fixed tokens by position. The caller fills positions from ``length`` on."""
        self.allowed = builder.allowed
        """Token ids that a position may get, for slots of numbers and enums; strings are not restricted."""

    def render(self, tokens: Sequence[int]) -> str:
        """The JSON text of a decoded canvas; it fits the schema."""
        return "".join(run.text for run in self._value.write(tokens))

    def bytes_of_tokens(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of ``render`` that belong to each token; none for tokens behind the template."""
        token_bytes = [self._token_bytes(token) for token in tokens[: self.length]]
        assigned = bytes_of_tokens(self._value.write(tokens), token_bytes)
        return [*assigned, *[b""] * (len(tokens) - len(assigned))]


def _too_long(needed: str, limit: int) -> ApiError:
    message = (
        f"the schema takes {needed} tokens and max_tokens is {limit}; raise max_tokens, or lower maxLength "
        "and maxItems"
    )
    return ApiError(400, message, code="schema_too_long", param="max_tokens")


def _too_many_characters(limit: int) -> ApiError:
    message = (
        f"{ROOT}: its names and values have more than {limit} characters with all references expanded; "
        "shorten them"
    )
    return ApiError(400, message, code="context_length_exceeded", param=ROOT)


class _TooManyPartsError(Exception):
    """The template has too many parts to count its length."""


@dataclass(frozen=True)
class _SlotTokens:
    """Ids of the tokens that slots of numbers and enums allow."""

    digits: tuple[int, ...]
    minus: tuple[int, ...]
    point: tuple[int, ...]
    ends: tuple[int, ...]


@lru_cache(maxsize=4)
def _slot_tokens(tokenizer: ChatTokenizer) -> _SlotTokens:
    """``digits`` are all numerals of up to three digits that are one token: no vocabulary has longer ones."""

    def single_tokens(texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(ids[0] for ids in map(tokenizer.encode, texts) if len(ids) == 1)

    numerals = (f"{number:0{width}}" for width in (1, 2, 3) for number in range(10**width))
    ids = tokenizer.ids
    return _SlotTokens(
        single_tokens(numerals),
        single_tokens(["-"]),
        single_tokens(["."]),
        tuple(dict.fromkeys((ids.eot, ids.eos))),
    )


class _Builder:
    """Builds the canvas. Text between two slots is encoded as a whole."""

    def __init__(self, tokenizer: ChatTokenizer, value_tokens: int, parts: int, characters: int) -> None:
        self.infill: dict[int, int] = {}
        self.allowed: dict[int, tuple[int, ...]] = {}
        self._tokenizer, self._value_tokens = tokenizer, value_tokens
        self._slot_tokens = _slot_tokens(tokenizer)
        self._length, self._parts_left = 0, parts
        self._characters, self._used_characters = characters, 0
        self._text: list[str] = []

    def add(self, kind: SchemaType, optional: bool = False) -> Value:
        """Append a value. The slot of an optional value may be empty."""
        match kind:
            case ObjectType():
                return self._object(kind)
            case ArrayType():
                return self._array(kind)
            case StringType():
                return self._string(kind)
            case NumberType():
                return self._number(kind, optional or kind.nullable)
            case EnumType():
                return self._enum(kind, optional)

    def flush(self) -> int:
        """Encode the pending text and return the length of the canvas."""
        for token in self._tokenizer.encode("".join(self._text)) if self._text else []:
            self.infill[self._length] = token
            self._length += 1
        self._text.clear()
        return self._length

    def _write(self, text: str) -> None:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise _TooManyPartsError
        self._count(len(text))
        self._text.append(text)

    def _count(self, characters: int) -> None:
        """Count characters before they are encoded, which takes time."""
        self._used_characters += characters
        if self._used_characters > self._characters:
            raise _too_many_characters(self._characters)

    def _slot(self, length: int) -> Slot:
        start = self.flush()
        self._length += length
        return Slot(range(start, self._length), self._tokenizer, frozenset(self._slot_tokens.ends))

    def _object(self, kind: ObjectType) -> Value:
        properties = {}
        for number, (name, each) in enumerate(kind.properties.items()):
            self._write(f"{', ' if number else '{'}{to_json(name)}: ")
            properties[name] = self.add(each)
        self._write("}" if properties else "{}")
        return ObjectValue(properties)

    def _array(self, kind: ArrayType) -> Value:
        items = []
        for number in range(kind.max_items):
            self._write(", " if number else "[")
            items.append(self.add(kind.item, optional=number >= kind.min_items))
        self._write("]" if items else "[]")
        return ArrayValue(items, kind.min_items)

    def _string(self, kind: StringType) -> Value:
        self._write('"')
        slot = self._slot(_string_length(kind, self._value_tokens))
        self._write('"')
        return StringValue(kind, slot)

    def _number(self, kind: NumberType, optional: bool) -> Value:
        ids = self._slot_tokens
        slot = self._slot(_number_length(kind))
        minus = ids.minus if kind.low < 0 else ()
        point = ids.point if kind.multiple is None else ()
        first = (*ids.digits, *minus, *(ids.ends if optional else ()))
        later = (*ids.digits, *point, *ids.ends)
        self.allowed |= {position: later if n else first for n, position in enumerate(slot.positions)}
        return NumberValue(kind, slot)

    def _enum(self, kind: EnumType, optional: bool) -> Value:
        values = {to_json(value): value for value in kind.values}
        if len(values) == 1 and not optional:
            self._write(*values)
            return ConstantValue(*values.values())
        quote = '"' if all(isinstance(value, str) for value in values.values()) else ""
        self._write(quote)
        self._count(len(values) * max(map(len, values)))  # each is padded to the longest
        encoded = [self._tokenizer.encode(text[1:-1] if quote else text) for text in values]
        slot = self._slot(max(map(len, encoded)))
        length = len(slot.positions)
        alternatives = [
            [*ids, *[PAD] * (length - len(ids))] for ids in (*encoded, *([[]] if optional else []))
        ]
        for position, *ids in zip(slot.positions, *alternatives, strict=True):
            self._allow(position, ids)
        self._write(quote)
        return EnumValue(tuple(values.values()), alternatives, slot)

    def _allow(self, position: int, ids: Sequence[int]) -> None:
        """Restrict a position to the ids of the alternatives; an id that all share is fixed."""
        if len(set(ids)) == 1:
            self.infill[position] = ids[0]
            return
        ends = self._slot_tokens.ends if PAD in ids else ()
        self.allowed[position] = (*dict.fromkeys(i for i in ids if i != PAD), *ends)


def _string_length(kind: StringType, value_tokens: int) -> int:
    characters = kind.min_length if kind.max_length is None else kind.max_length
    length = max(value_tokens, -(-characters // CHARACTERS_PER_TOKEN))
    return length if kind.max_length is None else min(length, kind.max_length)


def _number_length(kind: NumberType) -> int:
    """Positions for both bounds; an infinite bound gets ``INTEGER_DIGITS``."""
    lengths = [
        len(str(int(bound))) if math.isfinite(bound) else INTEGER_DIGITS for bound in (kind.low, kind.high)
    ]
    digits = min(max(lengths), MAX_INTEGER_DIGITS)
    return digits if kind.multiple is not None else digits + FRACTION_DIGITS
