"""Distinct scalars: the tokens that are always enough for one more, and values that are left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import pytest

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.budget import unlimited
from lladav.structured.forms import ConstantForm, JsonValue, NumberForm, StringForm
from lladav.structured.languages.building import Automata, ScalarForm
from lladav.structured.languages.vocabulary import vocabulary_of
from lladav.structured.outlines.cost import total
from lladav.structured.outlines.distinct import key_of, shortest_values, value_of
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.parts import Collection, Scalar, SlotPart
from lladav.structured.outlines.slots import SlotBuilder
from lladav.structured.outlines.unique import UniqueScalars
from tests.lladav.structured.outlines.hand_built import ENCODER, SLOTS, TOKENIZER
from tests.lladav.structured.walks import random_member

FORMS: list[list[ScalarForm]] = [
    [StringForm()],
    [StringForm(max_length=1)],
    [StringForm(patterns=("^(a|bb|ccc)$",))],
    [NumberForm(integer=True)],
    [NumberForm(Fraction(0), Fraction(1))],
    [NumberForm(integer=True), ConstantForm((None, True))],
]


@pytest.mark.parametrize("forms", FORMS)
def test_the_shortest_values_are_distinct_and_members(forms: list[ScalarForm]):
    layout = SLOTS.slot(forms)
    found = shortest_values(layout, ENCODER, 12, unlimited())
    values = [value_of(each.text, bool(layout.quotes)) for each in found]
    assert len(set(map(key_of, values))) == len(found) == (3 if "bb" in values else 12)
    assert found[0].tokens >= layout.automaton.min_tokens
    assert [each.tokens for each in found] == sorted(each.tokens for each in found)


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_there_are_enough_tokens_for_one_more_whatever_is_written(forms: list[ScalarForm], seed: int):
    scalars, collection, rng = UniqueScalars(forms, SLOTS, 6), Collection(), random.Random(seed)
    written = tuple[Scalar, ...]()
    while len(written) < 6 and (parts := scalars.parts(collection, {collection: written})) is not None:
        (slot,) = (part for part in parts if isinstance(part, SlotPart))
        bound = scalars.cost(len(written)).minimum - sum(
            part.cost.minimum for part in parts if part is not slot
        )
        assert slot.automaton.min_tokens <= bound
        ids = random_member(slot.automaton, int(bound), rng)
        value = value_of(b"".join(map(TOKENIZER.token_bytes, ids)).decode(), slot.quoted)
        assert key_of(value) not in map(key_of, written)
        written = (*written, value)
    assert len(written) == (3 if forms == FORMS[2] else 6)
    assert scalars.cost(3).possible == (forms != FORMS[2])


def test_one_is_not_true_and_is_one_point_zero():
    assert key_of(value_of("1", False)) == key_of(value_of("1.0", False))
    assert key_of(value_of("1", False)) != key_of(value_of("true", False))
    assert value_of("\\u00e9", True) == value_of("é", True)


def test_constants_that_are_written_are_left_out():
    collection = Collection()
    scalars = UniqueScalars([ConstantForm((1, True, "x"))], SLOTS, 3)
    known: Sequence[Scalar] = (Fraction(1), "x")
    parts = scalars.parts(collection, {collection: tuple(known)})
    assert parts is not None
    (slot,) = parts
    assert isinstance(slot, SlotPart)
    assert random_member(slot.automaton, 9, random.Random(0)) == TOKENIZER.encode("true")
    assert scalars.parts(collection, {collection: (*known, True)}) is None


class GreedyTokenizer:
    """Has tokens across quotation marks, and takes the longest token that fits."""

    tokens = (*(bytes([byte]) for byte in range(256)), b'""', b'"a"', b'"b"', b"null")
    vocab_size = len(tokens)

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token]

    def encode(self, text: str) -> list[int]:
        data, ids = text.encode(), list[int]()
        while data:
            fitting = [token for token, each in enumerate(self.tokens) if data.startswith(each)]
            ids.append(max(fitting, key=lambda token: len(self.tokens[token])))
            data = data[len(self.tokens[ids[-1]]) :]
        return ids


@pytest.mark.parametrize("written", [(None,), (None, "a"), ("a", "b"), ("", None)])
@pytest.mark.parametrize("constants", [(None,), (None, "x", "y", "z")])
def test_tokens_across_quotation_marks_do_not_break_what_was_promised(
    constants: tuple[JsonValue, ...], written: tuple[Scalar, ...]
):
    encoder = TextEncoder(cast(ChatTokenizer, GreedyTokenizer()))
    slots = SlotBuilder(encoder, 6, Automata(vocabulary_of(encoder.tokenizer)))
    forms = [StringForm(max_length=1), ConstantForm(constants)]
    scalars, collection = UniqueScalars(forms, slots, 3), Collection()
    parts = scalars.parts(collection, {collection: written})
    assert parts is not None
    assert total(part.cost for part in parts).minimum <= scalars.cost(len(written)).minimum


def test_what_is_promised_does_not_depend_on_what_was_asked_before():
    forms = [StringForm(3, 5)]
    ascending, descending = UniqueScalars(forms, SLOTS, 200), UniqueScalars(forms, SLOTS, 200)
    counts = range(200)
    costs = {count: ascending.cost(count) for count in counts}
    assert costs == {count: descending.cost(count) for count in reversed(counts)}
