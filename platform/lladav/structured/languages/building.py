"""Automata over tokens for forms of scalars, for texts and for regular expressions.

All are cached by value. A ``SchemaError`` without a path says what is not supported, permits no value, or is
too complex.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from lladav.structured.forms import ConstantForm, JsonValue, NumberForm, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.byte_dfa import quoted_dfa, texts_dfa, union_dfa
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.number_forms import number_dfa
from lladav.structured.languages.strings import matching_dfa, string_language
from lladav.structured.languages.token_classes import automaton_of_sequences, token_automaton
from lladav.structured.languages.vocabulary import Vocabulary

CACHED = 128
"""Automata of each kind that the process keeps; a usual one has 1 MB, the largest ones 25 MB."""
ScalarForm: TypeAlias = ConstantForm | NumberForm | StringForm


@lru_cache(maxsize=CACHED)
def string_automaton(form: StringForm, vocabulary: Vocabulary, *, quoted: bool) -> TokenAutomaton:
    """The JSON texts of strings, with their quotation marks or without."""
    content, max_length = string_language(form)
    texts = byte_dfa(content, escaped=True)
    return token_automaton(quoted_dfa(texts) if quoted else texts, vocabulary, max_length)


@lru_cache(maxsize=CACHED)
def number_automaton(form: NumberForm, vocabulary: Vocabulary) -> TokenAutomaton:
    """The JSON texts of numbers."""
    return token_automaton(number_dfa(form), vocabulary)


@lru_cache(maxsize=CACHED)
def regex_automaton(pattern: str, vocabulary: Vocabulary) -> TokenAutomaton:
    """Texts that a regular expression matches as a whole, not as JSON but as they are."""
    return token_automaton(byte_dfa(matching_dfa(pattern), escaped=False), vocabulary)


def texts_automaton(texts: Sequence[str], vocabulary: Vocabulary) -> TokenAutomaton:
    """Literal texts, each as the tokenizer encodes it.

    If the tokenizer changes one of the texts, any tokens that spell a text are accepted.
    """
    return _texts_automaton(tuple(dict.fromkeys(texts)), vocabulary)


def scalars_automaton(forms: Sequence[ScalarForm], vocabulary: Vocabulary) -> TokenAutomaton:
    """The JSON texts of values of any of the forms; strings have their quotation marks."""
    # Constants are cached by their texts, because 1 and true are equal in Python.
    values = (value for form in forms if isinstance(form, ConstantForm) for value in form.values)
    texts = tuple(dict.fromkeys(map(json_text, values)))
    others = tuple(form for form in forms if not isinstance(form, ConstantForm))
    return _scalars_automaton(texts, others, vocabulary) if others else _texts_automaton(texts, vocabulary)


@lru_cache(maxsize=CACHED)
def _texts_automaton(texts: tuple[str, ...], vocabulary: Vocabulary) -> TokenAutomaton:
    encoded = [ids for text in texts if (ids := vocabulary.encode(text)) is not None]
    if len(encoded) == len(texts):
        return automaton_of_sequences(encoded, len(vocabulary))
    return token_automaton(texts_dfa([text.encode() for text in texts]), vocabulary)


@lru_cache(maxsize=CACHED)
def _scalars_automaton(
    texts: tuple[str, ...], forms: tuple[NumberForm | StringForm, ...], vocabulary: Vocabulary
) -> TokenAutomaton:
    parts = [texts_dfa([text.encode() for text in texts])] if texts else []
    limits = list[int]()
    for form in forms:
        if isinstance(form, NumberForm):
            parts.append(number_dfa(form))
            continue
        content, max_length = string_language(form)
        parts.append(quoted_dfa(byte_dfa(content, escaped=True)))
        limits += [] if max_length is None else [max_length]
    return token_automaton(union_dfa(parts), vocabulary, min(limits, default=None))


def json_text(value: JsonValue) -> str:
    """The JSON text of a value, as answers have it."""
    return json.dumps(value, ensure_ascii=False)
