"""Strings: what an automaton accepts is the JSON text of a string of the form, and the other way round."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.structured.errors import SchemaError
from lladav.structured.forms import ConstantForm, StringForm
from lladav.structured.languages.automaton import PADDING
from lladav.structured.languages.building import Automata
from lladav.structured.languages.vocabulary import Vocabulary
from tests.lladav.structured.languages.walks import BYTES, ODD, Walker

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VOCABULARIES = pytest.mark.parametrize("vocabulary", [BYTES, ODD], ids=["bytes", "odd"])


def text_of(value: str, quoted: bool) -> str:
    """The JSON text of a string."""
    text = json.dumps(value, ensure_ascii=False)
    return text if quoted else text[1:-1]


def walker(form: StringForm, vocabulary: Vocabulary = BYTES, quoted: bool = True) -> Walker:
    return Walker(Automata(vocabulary).string(form, quoted=quoted), vocabulary)


@given(TEXTS, st.booleans())
def test_every_string_is_accepted_as_json_writes_it(value: str, quoted: bool):
    assert walker(StringForm(), quoted=quoted).has(text_of(value, quoted))


@VOCABULARIES
@pytest.mark.parametrize("form", [StringForm(), StringForm(max_length=9), StringForm(3), StringForm(5, 7)])
def test_every_accepted_sequence_is_a_string_of_the_form(form: StringForm, vocabulary: Vocabulary):
    for quoted in (True, False):
        for text in walker(form, vocabulary, quoted).samples(200):
            value = json.loads(text if quoted else f'"{text}"')
            assert text == text_of(value, quoted), "the text is the one that json.dumps writes"
            assert form.min_length <= len(value) <= (form.max_length or len(value))


@given(TEXTS, st.integers(0, 8), st.none() | st.integers(0, 8))
def test_lengths_count_characters(value: str, least: int, most: int | None):
    if most is not None and least > most:
        with pytest.raises(SchemaError):
            walker(StringForm(least, most))
        return
    expected = least <= len(value) <= (len(value) if most is None else most)
    assert walker(StringForm(least, most)).has(text_of(value, True)) == expected


@pytest.mark.parametrize(
    "text",
    [
        '"a',
        'a"',
        '"a"b"',
        '"\n"',
        '"\\x"',
        '"\\u000a"',
        '"\\u0041"',
        '"\\/"',
        '"\\ud800"',
        '"\x00"',
        "''",
        "",
    ],
)
def test_other_texts_are_not_accepted(text: str):
    assert not walker(StringForm()).has(text)


def test_surrogates_and_overlong_forms_are_not_accepted():
    free = walker(StringForm(), quoted=False)
    for data in (
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\xc3",
    ):
        assert not free.accepts(list(data))
    for character in (
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
        "\x7f",
        "\x80",
        "\u07ff",
        "\u0800",
    ):
        assert free.accepts(list(character.encode()))


@given(st.frozensets(st.text("ab", max_size=3), max_size=5), st.text("abc", max_size=4))
def test_excluded_strings_are_not_accepted(excluded: frozenset[str], value: str):
    assert walker(StringForm(excluded=excluded)).has(text_of(value, True)) == (value not in excluded)


@pytest.mark.parametrize(
    "form",
    [
        StringForm(max_length=100_000),
        StringForm(max_length=254, formats=("email",)),
        StringForm(max_length=2048, formats=("uri",)),
        StringForm(5, 3000, patterns=(r"^[A-Z]\w*( \w+){0,20}$",)),
    ],
)
def test_a_maximum_that_needs_no_states_is_sound_and_leaves_room(form: StringForm):
    automaton = Automata(ODD).string(form, quoted=True)
    assert len(automaton.sources_E) < 100_000
    assert form.max_length is not None
    assert automaton.max_tokens is not None
    longest = max(len(ODD.token_bytes[token]) for token in np.flatnonzero(automaton.class_of_V))
    assert automaton.max_tokens * longest <= form.max_length
    assert automaton.max_tokens >= 15
    padding_N = np.full(automaton.max_tokens + 50, -50.0)
    best_NK = np.zeros((len(padding_N), automaton.num_classes))
    classes_N, _ = automaton.most_probable(best_NK, padding_N)
    assert (classes_N[automaton.max_tokens :] == PADDING).all()


def test_a_large_minimum_is_refused():
    with pytest.raises(SchemaError, match="too complex"):
        Automata(BYTES).string(StringForm(min_length=1_000_000), quoted=False)


def test_a_union_keeps_the_maximum_of_its_strings():
    form = StringForm(max_length=254, formats=("email",))
    automaton = Automata(ODD).scalars([ConstantForm((None,)), form])
    assert Walker(automaton, ODD).has("null")
    assert Walker(automaton, ODD).has('"jane.doe@example.org"')
    assert automaton.max_tokens == Automata(ODD).string(form, quoted=True).max_tokens
