"""Objects: which properties are offered when, and names that the model writes."""

from __future__ import annotations

import json
import random
from itertools import product

import pytest

from lladav.structured.forms import KeyRule, ObjectForm, StringForm
from tests.lladav.structured.outlines.hand_built import (
    DIGIT,
    TOKENIZER,
    HandBuilt,
    Unsupported,
    all_answers,
    array,
    constant,
    follow,
    outline_of,
    record,
    texts,
)
from tests.lladav.structured.walks import random_walk

ONE = constant(1)
"""A value with one text, so that an outline is all text."""
NAME = StringForm(max_length=1)


def subsets(*names: str) -> list[dict[str, int]]:
    """Every choice of some names, in their order."""
    picks = product((True, False), repeat=len(names))
    return [{name: 1 for name, picked in zip(names, pick, strict=True) if picked} for pick in picks]


def test_every_subset_of_optional_properties_can_be_written_in_order():
    answers = [json.loads(text) for text in all_answers(outline_of(record("c", a=ONE, b=ONE, c=ONE, d=ONE)))]
    wanted = [{**before, "c": 1, **after} for before in subsets("a", "b") for after in subsets("d")]
    assert sorted(map(str, answers)) == sorted(map(str, wanted))


def test_a_written_optional_property_is_one_choice():
    outline = outline_of(HandBuilt(ObjectForm({f"p{number}": DIGIT for number in range(20)})))
    alternatives = outline.choices([])
    assert len(alternatives) == 21
    (after,) = alternatives[3].choices([TOKENIZER.encode("1")])
    assert len(after.choices([])) == 17
    assert not alternatives[19].choices([TOKENIZER.encode("1")])


@pytest.mark.parametrize("required", [False, True])
def test_an_object_can_end_however_many_optional_properties_it_has(required: bool):
    properties = {f"p{number}": ONE for number in range(600)}
    form = ObjectForm({**properties, "last": ONE}, frozenset({"last"} if required else ()))
    outline = outline_of(HandBuilt(form))
    before = "".join(texts(outline))
    assert before + follow(outline)[-1][0] == ('{"last": 1}' if required else "{}")


def test_a_property_that_has_to_be_written_is_offered_wherever_it_is_listed():
    properties = {f"p{number}": Unsupported() for number in range(600)}
    form = ObjectForm({**properties, "last": ONE}, min_properties=1)
    assert all_answers(outline_of(HandBuilt(form))) == ['{"last": 1}']


def test_all_properties_are_written_without_a_choice_if_the_model_is_not_to_choose():
    outline = outline_of(record("b", a=ONE, b=ONE, c=ONE), all_properties=True)
    assert texts(outline) == ['{"a": 1, "b": 1, "c": 1}']
    assert not outline.choices([])


def test_optional_properties_that_do_not_fit_are_left_out():
    schema = record("b", a=array(ONE, least=20), b=ONE, c=ONE)
    assert texts(outline_of(schema, 30, all_properties=True)) == ['{"b": 1, "c": 1}']


def test_the_model_decides_how_deep_a_recursive_property_goes():
    node = record("value", value=DIGIT)
    form = node.own[0]
    assert isinstance(form, ObjectForm)
    node.own = [ObjectForm({**form.properties, "next": node}, form.required)]
    outline = outline_of(node, all_properties=True)
    assert [each[0] for each in follow(outline, "1")] == [', "next": {"value": ', "}"]


def test_properties_that_cannot_be_enforced_are_not_offered():
    assert all_answers(outline_of(record("a", a=ONE, b=Unsupported()))) == ['{"a": 1}']


@pytest.mark.parametrize(("least", "most"), [(0, 1), (1, 2), (2, 2), (3, 3), (2, None)])
def test_the_number_of_properties_is_respected(least: int, most: int | None):
    form = ObjectForm({"a": ONE, "b": ONE, "c": ONE}, frozenset(), (), least, most)
    answers = [json.loads(text) for text in all_answers(outline_of(HandBuilt(form)))]
    wanted = [each for each in subsets("a", "b", "c") if least <= len(each) <= (3 if most is None else most)]
    assert sorted(map(str, answers)) == sorted(map(str, wanted))


def test_required_properties_count():
    form = ObjectForm({"a": ONE, "b": ONE, "c": ONE}, frozenset({"c"}), (), 2, 2)
    assert sorted(all_answers(outline_of(HandBuilt(form)))) == ['{"a": 1, "c": 1}', '{"b": 1, "c": 1}']


@pytest.mark.parametrize("seed", range(5))
def test_written_names_differ(seed: int):
    rule = KeyRule(StringForm(patterns=("^[ab]$",)), ONE)
    outline = outline_of(HandBuilt(ObjectForm(rules=(rule,), min_properties=2)))
    answer = random_walk(outline, TOKENIZER, random.Random(seed)).text
    assert json.loads(answer) == {"a": 1, "b": 1}
    assert answer.count(": ") == 2


@pytest.mark.parametrize("seed", range(10))
def test_written_names_come_after_listed_ones_and_differ_from_them(seed: int):
    names = StringForm(max_length=1, excluded=frozenset("a"))
    form = ObjectForm({"a": ONE}, frozenset("a"), (KeyRule(names, DIGIT),), 2, 3)
    answer = random_walk(outline_of(HandBuilt(form)), TOKENIZER, random.Random(seed)).text
    pairs = json.loads(answer, object_pairs_hook=list)
    assert pairs[0] == ["a", 1] or pairs[0] == ("a", 1)
    assert len(dict(pairs)) == len(pairs) in (2, 3)


def test_names_by_two_rules_are_offered_side_by_side():
    rules = (KeyRule(StringForm(patterns=("^x$",)), ONE), KeyRule(StringForm(patterns=("^y$",)), DIGIT))
    outline = outline_of(HandBuilt(ObjectForm(rules=rules)))
    assert len(outline.choices([])) == 3


def test_too_few_possible_names_are_an_impossible_object():
    rule = KeyRule(StringForm(patterns=("^[ab]$",)), ONE)
    impossible = HandBuilt(ObjectForm(rules=(rule,), min_properties=3))
    assert all_answers(outline_of(HandBuilt(*impossible.forms, *ONE.forms))) == ["1"]
