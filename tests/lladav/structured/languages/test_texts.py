"""Lists of texts and unions of scalars."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.errors import SchemaError
from lladav.structured.forms import ConstantForm, NumberForm, StringForm
from lladav.structured.languages.building import Automata
from lladav.structured.languages.vocabulary import Vocabulary, vocabulary_of
from tests.lladav.structured.languages.walks import BYTES, ODD, Walker


@pytest.fixture(scope="module")
def tokens(root: Path) -> Vocabulary:
    return vocabulary_of(ChatTokenizer.load(root / "tests" / "golden" / "tokenizer"))


def test_texts_are_accepted_as_the_tokenizer_encodes_them(tokens: Vocabulary):
    texts = ["left", "lefthand", "right", "", "né"]
    automaton = Automata(tokens).texts(texts)
    walker = Walker(automaton, tokens)
    encoded = [tokens.encode(text) for text in texts]
    assert all(ids is not None and walker.accepts(ids) for ids in encoded)
    assert set(walker.samples(300)) == set(texts)
    assert (automaton.min_tokens, automaton.max_tokens) == (0, max(len(ids or ()) for ids in encoded))


@given(st.lists(st.text(max_size=4), min_size=1, max_size=6), st.text(max_size=4))
def test_without_a_tokenizer_every_spelling_is_accepted(texts: list[str], other: str):
    walker = Walker(Automata(ODD).texts(texts), ODD)
    assert set(walker.samples(50)) <= set(texts)
    assert all(walker.has(text) for text in texts)
    assert walker.has(other) == (other in texts)


def test_no_texts_are_no_language():
    with pytest.raises(SchemaError):
        Automata(BYTES).texts([])


def test_ten_thousand_texts_are_quick(tokens: Vocabulary):
    texts = [f"value number {number}" for number in range(10_000)]
    started = time.process_time()
    automaton = Automata(tokens).texts(texts)
    assert time.process_time() - started < 2
    assert Walker(automaton, tokens).accepts(tokens.encode(texts[1234]) or ())


@pytest.mark.parametrize("vocabulary", [BYTES, ODD], ids=["bytes", "odd"])
def test_a_union_accepts_the_values_of_its_forms_and_no_others(vocabulary: Vocabulary):
    forms = [
        ConstantForm((None, True, "yes", 1.5, 12)),
        StringForm(max_length=4),
        NumberForm(low=Fraction(10), high=Fraction(20), integer=True),
    ]
    walker = Walker(Automata(vocabulary).scalars(forms), vocabulary)
    for value in (None, True, "yes", "nul", "no", "", 1.5, 10, 12, 20):
        assert walker.has(json.dumps(value)), value
    for text in ("false", "nul", '"no', "9", "21", "1.6", "1", '"12345"', ""):
        assert not walker.has(text), text
    for text in walker.samples(300):
        value = json.loads(text)
        assert value in (None, True, 1.5, *range(10, 21)) or (isinstance(value, str) and len(value) <= 4)


def test_constants_alone_are_texts(tokens: Vocabulary):
    automaton = Automata(tokens).scalars([ConstantForm(("left", None)), ConstantForm((3,))])
    assert automaton is Automata(tokens).texts(['"left"', "null", "3"])


def test_constants_that_are_equal_in_python_are_different_values():
    for value, other in ((True, 1), (1, True), (False, 0)):
        automaton = Automata(BYTES).scalars(
            [ConstantForm((value,)), NumberForm(low=Fraction(7), high=Fraction(7))]
        )
        assert Walker(automaton, BYTES).has(json.dumps(value))
        assert not Walker(automaton, BYTES).has(json.dumps(other))
