"""Arrays: how many items are offered, and that items differ where they have to."""

from __future__ import annotations

import json
import random

import pytest

from lladav.structured.forms import ArrayForm, ConstantForm, Contains, NumberForm, StringForm
from tests.lladav.structured.outlines.hand_built import (
    DIGIT,
    STRING,
    TOKENIZER,
    HandBuilt,
    Unsupported,
    all_answers,
    array,
    constant,
    outline_of,
    record,
)
from tests.lladav.structured.walks import random_walk

ONE, TWO = constant(1), constant(2)


def answers(form: ArrayForm, max_tokens: int = 100) -> list[list[object]]:
    return [json.loads(text) for text in all_answers(outline_of(HandBuilt(form), max_tokens))]


def walk(form: ArrayForm, seed: int, max_tokens: int = 100) -> list[object]:
    return json.loads(
        random_walk(outline_of(HandBuilt(form), max_tokens), TOKENIZER, random.Random(seed)).text
    )


def test_the_number_of_items_is_respected():
    assert answers(ArrayForm(items=ONE, min_items=1, max_items=3)) == [[1, 1, 1], [1, 1], [1]]


def test_items_have_the_schemas_of_their_positions():
    assert answers(ArrayForm((TWO, ONE), TWO, 1, 3)) == [[2, 1, 2], [2, 1], [2]]


def test_there_are_no_items_behind_the_prefix_without_a_schema():
    assert answers(ArrayForm((TWO, ONE), None)) == [[2, 1], [2], []]


def test_an_array_ends_before_an_item_that_is_impossible():
    assert answers(ArrayForm((TWO, Unsupported(), ONE), ONE)) == [[2], []]


def test_an_array_of_any_length_ends_in_time():
    most = max(map(len, answers(ArrayForm(items=ONE), max_tokens=30)))
    assert 5 <= most <= 15


def test_items_that_count_come_first():
    assert answers(ArrayForm(items=ONE, min_items=3, max_items=3, contains=Contains(TWO, ONE, 2))) == [
        [2, 2, 1]
    ]


def test_more_items_count_where_others_are_impossible():
    contains = Contains(TWO, HandBuilt(), 1, 3)
    assert answers(ArrayForm(items=TWO, contains=contains)) == [[2, 2, 2], [2, 2], [2]]


@pytest.mark.parametrize("seed", range(5))
def test_unique_constants_are_a_permutation(seed: int):
    items = walk(ArrayForm(items=constant("x", "y", 1), min_items=3, unique=True), seed)
    assert sorted(map(str, items)) == ["1", "x", "y"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "scalar",
    [
        NumberForm(low=None, integer=True),
        NumberForm(),
        StringForm(max_length=1),
        StringForm(patterns=("^a{1,4}$",)),
    ],
)
def test_unique_scalars_differ(scalar: NumberForm | StringForm, seed: int):
    form = ArrayForm(
        items=HandBuilt(scalar, ConstantForm((True, 1, None))), min_items=4, max_items=6, unique=True
    )
    items = walk(form, seed, 60)
    assert 4 <= len(items) <= 6
    assert len({(isinstance(item, bool), item) for item in items}) == len(items)


def test_a_unique_array_has_one_object_at_most():
    item = HandBuilt(*record("a", a=DIGIT).forms, *array(DIGIT).forms, *ONE.forms)
    for seed in range(20):
        items = walk(ArrayForm(items=item, unique=True), seed)
        assert sum(isinstance(each, dict | list) for each in items) <= 1
        assert items.count(1) <= 1


def test_two_objects_of_a_unique_array_are_impossible():
    impossible = ArrayForm(items=record("a", a=STRING), min_items=2, unique=True)
    assert all_answers(outline_of(HandBuilt(impossible, ConstantForm((None,))))) == ["null"]


def test_too_few_unique_values_are_an_impossible_array():
    impossible = ArrayForm(items=constant(1, 1.0, True), min_items=3, unique=True)
    assert all_answers(outline_of(HandBuilt(impossible, ConstantForm((None,))))) == ["null"]
