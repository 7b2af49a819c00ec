"""Schemas made of forms, their outlines with the golden tokenizer, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.errors import SchemaError
from lladav.structured.forms import (
    ArrayForm,
    ConstantForm,
    Form,
    JsonValue,
    KeyRule,
    NumberForm,
    ObjectForm,
    Schema,
    StringForm,
)
from lladav.structured.languages.building import Automata
from lladav.structured.languages.vocabulary import vocabulary_of
from lladav.structured.outline import Fixed, Outline, Slot
from lladav.structured.outlines.answer import AnswerOutline
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.layouts import Layouts
from lladav.structured.outlines.parts import push
from lladav.structured.outlines.slots import SlotBuilder
from lladav.structured.outlines.values import ValuePart

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[3] / "golden" / "tokenizer")
ENCODER = TextEncoder(TOKENIZER)
VALUE_TOKENS = 6
SLOTS = SlotBuilder(ENCODER, VALUE_TOKENS, Automata(vocabulary_of(TOKENIZER)))


class HandBuilt:
    """A schema whose forms can be added later, so that it may contain itself."""

    def __init__(self, *forms: Form, path: str = "#") -> None:
        self.path = path
        self.own: list[Form] = [*forms]

    @property
    def forms(self) -> Sequence[Form]:
        return self.own


class Unsupported:
    """A schema with a keyword that cannot be enforced."""

    path = "#/properties/unsupported"

    @property
    def forms(self) -> Sequence[Form]:
        raise SchemaError(self.path, "is not supported")


def constant(*values: JsonValue) -> HandBuilt:
    return HandBuilt(ConstantForm(values))


STRING, INTEGER = HandBuilt(StringForm()), HandBuilt(NumberForm(integer=True))
DIGIT = constant(*range(10))
"""A slot of one position."""


def record(*required: str, rules: Sequence[KeyRule] = (), least: int = 0, **values: Schema) -> HandBuilt:
    """An object; ``values`` are its properties."""
    return HandBuilt(ObjectForm(values, frozenset(required), tuple(rules), least))


def array(items: Schema | None, least: int = 0, most: int | None = None, unique: bool = False) -> HandBuilt:
    return HandBuilt(ArrayForm((), items, least, most, unique))


def outline_of(schema: Schema, max_tokens: int = 100, all_properties: bool = False) -> AnswerOutline:
    part = ValuePart(schema, Layouts(SLOTS, all_properties))
    assert part.cost.minimum <= max_tokens
    return AnswerOutline(ENCODER, push([part], None), max_tokens, {})


def texts(outline: Outline) -> list[str]:
    """The fixed texts of an outline; a slot is written as its length in angle brackets."""
    return [
        TOKENIZER.decode(piece.ids) if isinstance(piece, Fixed) else f"<{piece.length}>"
        for piece in outline.pieces
    ]


def follow(outline: Outline, *values: str) -> list[list[str]]:
    """The texts of the outlines that may follow, given the texts of the slots."""
    return [texts(each) for each in outline.choices([TOKENIZER.encode(text) for text in values])]


def slots(outline: Outline) -> list[Slot]:
    return [piece for piece in outline.pieces if isinstance(piece, Slot)]


def all_answers(outline: Outline, text: str = "") -> list[str]:
    """The texts of all answers of an outline whose slots are left out; for outlines of fixed text."""
    assert not slots(outline)
    text += "".join(texts(outline))
    following = outline.choices([])
    return [answer for each in following for answer in all_answers(each, text)] if following else [text]
