"""Automata over tokens for forms of scalars, for texts and for regular expressions.

All are cached by value. A ``SchemaError`` without a path says what is not supported, permits no value, or is
too complex.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from lladav.structured.forms import ConstantForm, NumberForm, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.byte_dfa import ByteDfa, quoted_dfa, texts_dfa, union_dfa
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.numbers import number_dfa
from lladav.structured.languages.strings import matching_dfa, string_dfa
from lladav.structured.languages.token_classes import automaton_of_sequences, token_automaton
from lladav.structured.languages.vocabulary import Vocabulary

CACHED = 512
"""Automata of each kind that the process keeps."""
ScalarForm: TypeAlias = ConstantForm | NumberForm | StringForm


@lru_cache(maxsize=CACHED)
def string_automaton(form: StringForm, vocabulary: Vocabulary, *, quoted: bool) -> TokenAutomaton:
    """The JSON texts of strings, with their quotation marks or without."""
    content = byte_dfa(string_dfa(form), escaped=True)
    return token_automaton(quoted_dfa(content) if quoted else content, vocabulary)


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
    constants = [each for each in forms if isinstance(each, ConstantForm)]
    if len(constants) == len(forms):
        return texts_automaton([_json(value) for form in constants for value in form.values], vocabulary)
    return _scalars_automaton(tuple(forms), vocabulary)


@lru_cache(maxsize=CACHED)
def _texts_automaton(texts: tuple[str, ...], vocabulary: Vocabulary) -> TokenAutomaton:
    encoded = [ids for text in texts if (ids := vocabulary.encode(text)) is not None]
    if len(encoded) == len(texts):
        return automaton_of_sequences(encoded, len(vocabulary))
    return token_automaton(texts_dfa([text.encode() for text in texts]), vocabulary)


@lru_cache(maxsize=CACHED)
def _scalars_automaton(forms: tuple[ScalarForm, ...], vocabulary: Vocabulary) -> TokenAutomaton:
    return token_automaton(union_dfa([_scalar_dfa(form) for form in forms]), vocabulary)


def _scalar_dfa(form: ScalarForm) -> ByteDfa:
    """The JSON texts of a form."""
    match form:
        case ConstantForm():
            return texts_dfa([_json(value).encode() for value in form.values])
        case NumberForm():
            return number_dfa(form)
        case StringForm():
            return quoted_dfa(byte_dfa(string_dfa(form), escaped=True))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
