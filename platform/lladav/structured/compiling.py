"""Compiles what an answer has to be into an outline that the decoding engine fills in.

What does not depend on the answer's length is compiled once: the forms of a schema, their automata and the
fewest tokens of values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.budget import Budget
from lladav.structured.errors import SchemaError
from lladav.structured.forms import JsonValue
from lladav.structured.languages.building import Automata
from lladav.structured.languages.vocabulary import vocabulary_of
from lladav.structured.outline import Outline
from lladav.structured.outlines.answer import AnswerOutline
from lladav.structured.outlines.calls import CallOrValuePart, CallPart
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.layouts import Layouts
from lladav.structured.outlines.longest import Longest
from lladav.structured.outlines.parts import Part, push
from lladav.structured.outlines.slots import SlotBuilder
from lladav.structured.outlines.values import ValuePart
from lladav.structured.schema.reading import read_schema
from lladav.structured.tool_calls import read_answer, read_functions

CACHED = 64
"""Compiled structures that a process keeps."""
MAX_STEPS = 1_600_000
"""Steps to compile a structure."""
TOO_COMPLEX = "makes the schema too complex; use fewer or simpler patterns, formats and lists"


class StructureKind(StrEnum):
    """What describes an answer."""

    json_schema = "json_schema"
    json_object = "json_object"
    choice = "choice"
    regex = "regex"
    tool_calls = "tool_calls"


@dataclass(frozen=True)
class StructureSpec:
    """What an answer has to be."""

    kind: StructureKind
    source: str = ""
    """The JSON text of a schema or of a list of texts, a regular expression, or the JSON text of functions as
    ``tool_calls.read_functions`` describes it."""
    all_properties: bool = False
    """Write all optional properties, as far as they fit, instead of asking the model."""
    value_tokens: int = 32
    """Canvas positions of a string of any length."""


@dataclass(frozen=True)
class Structure:
    """A compiled structure."""

    outline: Outline
    min_tokens: int
    """Canvas positions that are enough for some answer."""
    max_tokens: int
    """The most canvas positions that an answer takes."""
    warnings: tuple[str, ...] = ()


@lru_cache(CACHED)
def compile_structure(spec: StructureSpec, tokenizer: ChatTokenizer, max_tokens: int) -> Structure:
    """The structure of answers of at most ``max_tokens``.

    Raises ``SchemaError`` if no such answer can be guaranteed.
    """
    compiled = _compiled(spec, tokenizer)
    if isinstance(compiled, SchemaError):
        raise compiled.at(compiled.path)
    return compiled.structure(max_tokens)


@dataclass(frozen=True)
class _Compiled:
    """A structure for answers of any length."""

    encoder: TextEncoder
    part: Part
    longest: float
    """Tokens of the longest answer."""
    warnings: tuple[str, ...] = ()

    def structure(self, max_tokens: int) -> Structure:
        fewest = int(self.part.cost.minimum)
        if fewest > max_tokens:
            reason = f"takes at least {fewest} tokens, and the answer has at most {max_tokens}"
            raise SchemaError("#", f"{reason}; raise max_tokens", "schema_too_long")
        outline = AnswerOutline(self.encoder, push([self.part], None), max_tokens, {})
        most = self.longest if outline.length is None else outline.length
        return Structure(outline, fewest, int(min(most, max_tokens)), self.warnings)


@lru_cache(CACHED)
def _compiled(spec: StructureSpec, tokenizer: ChatTokenizer) -> _Compiled | SchemaError:
    """The structure, or why it is refused: finding that out takes as long as compiling."""
    automata = Automata(vocabulary_of(tokenizer), Budget(MAX_STEPS, TOO_COMPLEX))
    try:
        return _compile(spec, SlotBuilder(TextEncoder(tokenizer), spec.value_tokens, automata))
    except SchemaError as error:
        return error.at(error.path or "#")
    finally:
        automata.finish()


def _compile(spec: StructureSpec, slots: SlotBuilder) -> _Compiled:
    match spec.kind:
        case StructureKind.json_schema:
            return _of_schema(_parse(spec.source), slots, spec.all_properties)
        case StructureKind.json_object:
            return _of_schema({"type": "object"}, slots, spec.all_properties)
        case StructureKind.tool_calls:
            return _of_functions(_parse(spec.source), slots, spec.all_properties)
        case StructureKind.choice:
            slot = slots.texts(_texts(_parse(spec.source)))
        case StructureKind.regex:
            slot = slots.regex(spec.source)
    return _Compiled(slots.encoder, slot.slot(), slot.cost().wanted)


def _of_schema(source: JsonValue, slots: SlotBuilder, all_properties: bool) -> _Compiled:
    schema = read_schema(source, slots.automata.budget)
    layouts = Layouts(slots, all_properties)
    if not layouts.cost(schema.root).possible:
        raise layouts.error(schema.root)
    part = ValuePart(schema.root, layouts)
    return _Compiled(slots.encoder, part, Longest(layouts).of(schema.root), schema.warnings)


def _of_functions(source: JsonValue, slots: SlotBuilder, all_properties: bool) -> _Compiled:
    layouts = Layouts(slots, all_properties)
    functions, warnings = read_functions(source, layouts)
    first = functions.longest  # visits what is optional
    longest = math.inf if functions.parallel else first
    if (answer := read_answer(source, layouts)) is None:
        return _Compiled(slots.encoder, CallPart(functions), longest, warnings)
    longest = max(longest, Longest(layouts).of(answer.schema))
    return _Compiled(slots.encoder, CallOrValuePart(functions, answer), longest, warnings)


def _texts(source: JsonValue) -> Sequence[str]:
    texts = [text for text in source if isinstance(text, str)] if isinstance(source, list) else []
    if not texts or texts != source or not all(map(_is_unicode, texts)):
        raise SchemaError("#", "is not a list of texts", "invalid_schema")
    return list(dict.fromkeys(texts))


def _is_unicode(text: str) -> bool:
    """Whether a text has no surrogate without a partner."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse(source: str) -> JsonValue:
    try:
        return json.loads(source, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise SchemaError("#", "is not JSON, or is nested too deeply", "invalid_schema") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
