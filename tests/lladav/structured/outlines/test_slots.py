"""Layouts of scalars: what is fixed, and how many positions a slot has."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lladav.structured.forms import ConstantForm, NumberForm, StringForm
from lladav.structured.languages.building import ScalarForm
from lladav.structured.outlines.slots import SlotLayout, TextLayout
from tests.lladav.structured.outlines.hand_built import ENCODER, SLOTS, VALUE_TOKENS


def length(*forms: ScalarForm) -> float:
    """Positions of a slot where there is room."""
    return SLOTS.slot(forms).length.wanted


def test_a_single_constant_is_fixed_text():
    layout = SLOTS.scalar([ConstantForm(("né", "né"))])
    assert isinstance(layout, TextLayout)
    assert layout.text.text == '"né"'


@pytest.mark.parametrize(
    ("forms", "fixed"),
    [
        ([StringForm()], True),
        ([ConstantForm(("a", "b"))], True),
        ([ConstantForm(("a", None))], False),
        ([NumberForm()], False),
        ([StringForm(), ConstantForm((None,))], False),
    ],
)
def test_quotation_marks_are_fixed_where_every_value_is_a_string(forms: list[ScalarForm], fixed: bool):
    layout = SLOTS.scalar(forms)
    assert isinstance(layout, SlotLayout)
    assert [quote.text for quote in layout.quotes] == ['"'] * fixed


def test_a_list_of_constants_has_the_tokens_of_the_longest():
    texts = ["left", "the left", "right"]
    assert length(ConstantForm(tuple(texts))) == max(map(ENCODER.count, texts))


@pytest.mark.parametrize(
    ("form", "positions"),
    [
        (StringForm(), VALUE_TOKENS),
        (StringForm(max_length=2), 2),
        (StringForm(max_length=30), 10),
        (StringForm(max_length=10**6), 8 * VALUE_TOKENS),
        (StringForm(patterns=("^[ab]$",)), 1),
        (NumberForm(integer=True), 11),
        (NumberForm(Fraction(0), Fraction(99), integer=True), 2),
        (NumberForm(Fraction(0), Fraction(9)), 5),
    ],
)
def test_the_positions_of_a_slot_follow_from_its_limits(form: ScalarForm, positions: int):
    assert length(form) == positions


def test_a_long_string_has_room_for_tokens_that_are_not_the_longest():
    layout = SLOTS.slot([StringForm(min_length=2000)])
    assert layout.length.minimum > VALUE_TOKENS
    assert layout.length.wanted == 2 * layout.length.minimum


def test_a_union_has_the_positions_of_its_longest_form():
    assert length(NumberForm(integer=True), StringForm(max_length=2), ConstantForm((None,))) == 11
