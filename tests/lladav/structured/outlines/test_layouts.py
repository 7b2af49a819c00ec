"""The fewest tokens of schemas, also of recursive ones, and why a schema is rejected."""

from __future__ import annotations

import random

import pytest

from lladav.structured.errors import SchemaError
from lladav.structured.forms import ArrayForm, ConstantForm, Form, NumberForm, ObjectForm, StringForm
from lladav.structured.outlines.layouts import Layouts
from lladav.structured.outlines.longest import Longest
from tests.lladav.structured.outlines.hand_built import (
    DIGIT,
    INTEGER,
    SLOTS,
    STRING,
    TOKENIZER,
    HandBuilt,
    Unsupported,
    array,
    constant,
    outline_of,
    record,
)
from tests.lladav.structured.walks import random_walk


def fewest(schema: HandBuilt) -> float:
    return Layouts(SLOTS, all_properties=False).cost(schema).minimum


def recursive(*own: Form, required: bool, **others: HandBuilt) -> HandBuilt:
    """An object that contains itself, or one of some forms instead."""
    node = HandBuilt()
    properties = {**others, "node": HandBuilt()}
    properties["node"] = node
    node.own = [ObjectForm(properties, frozenset(properties if required else others)), *own]
    return node


def test_the_fewest_tokens_are_enough_for_the_shortest_answer():
    schema = record("a", "b", a=STRING, b=array(INTEGER, least=2))
    answer = outline_of(schema, int(fewest(schema)))
    walks = [random_walk(answer, TOKENIZER, random.Random(seed)) for seed in range(5)]
    assert all(walk.positions <= fewest(schema) for walk in walks)
    assert len(TOKENIZER.encode('{"a": "", "b": [1, 2]}')) <= fewest(schema)


def test_a_union_takes_the_tokens_of_its_shortest_form():
    assert fewest(HandBuilt(*record("a", a=STRING).forms, *constant(None).forms)) == fewest(constant(None))


def test_a_recursive_schema_takes_the_tokens_of_its_way_out():
    leaf = record("node", node=constant(None))
    assert fewest(recursive(ConstantForm((None,)), required=True)) == fewest(constant(None))
    assert fewest(recursive(required=False)) == fewest(record())
    assert fewest(record("node", node=recursive(ConstantForm((None,)), required=True))) == fewest(leaf)


def test_mutual_recursion_has_a_way_out_in_any_order():
    first, second, third = HandBuilt(), HandBuilt(), HandBuilt()
    first.own = [ObjectForm({"x": second}, frozenset("x"))]
    second.own = [ArrayForm(items=third, min_items=2)]
    third.own = [ObjectForm({"y": first}, frozenset("y")), ConstantForm((0,))]
    wanted = fewest(record("x", x=array(constant(0), least=2)))
    for schemas in ((first, second, third), (third, second, first), (second, first, third)):
        layouts = Layouts(SLOTS, all_properties=False)
        assert {schema: layouts.cost(schema).minimum for schema in schemas}[first] == wanted


def test_a_schema_without_a_finite_value_is_impossible():
    layouts = Layouts(SLOTS, all_properties=False)
    endless = recursive(required=True)
    assert not layouts.cost(endless).possible
    assert layouts.error(endless).code == "unsupported_schema"


def test_the_error_names_the_part_that_is_not_supported():
    layouts = Layouts(SLOTS, all_properties=False)
    schema = record("a", "b", a=STRING, b=array(Unsupported(), least=1))
    assert not layouts.cost(schema).possible
    assert layouts.error(schema).path == Unsupported.path


def test_a_scalar_that_is_not_supported_is_left_out_of_a_union():
    unsupported = StringForm(patterns=("(?=a)(?!b)(",))
    layouts = Layouts(SLOTS, all_properties=False)
    with pytest.raises(SchemaError):
        SLOTS.scalar([unsupported])
    union, alone = HandBuilt(unsupported, NumberForm(integer=True)), HandBuilt(unsupported, path="#/x")
    assert layouts.cost(union) == layouts.cost(INTEGER)
    assert not layouts.cost(alone).possible
    assert layouts.error(alone).path == "#/x"


def test_only_schemas_that_are_needed_are_visited():
    layouts = Layouts(SLOTS, all_properties=False)
    unread = HandBuilt()
    layouts.cost(record("a", a=DIGIT, b=unread))
    unread.own = [ConstantForm((1,))]  # nobody has found it empty
    assert layouts.cost(unread).possible


@pytest.mark.parametrize("depth", [10, 3000])
def test_deep_schemas_are_measured_without_recursion(depth: int):
    schema = constant(1)
    for _ in range(depth):
        schema = array(schema, least=1)
    assert fewest(schema) >= 2 * depth


def test_the_longest_answer_is_bounded_where_all_lengths_are():
    layouts = Layouts(SLOTS, all_properties=False)
    bounded = record(
        "a", a=STRING, b=array(DIGIT, most=3), c=HandBuilt(*DIGIT.forms, *array(DIGIT, most=2).forms)
    )
    most = Longest(layouts).of(bounded)
    lengths = [
        random_walk(outline_of(bounded, 500), TOKENIZER, random.Random(seed)).positions for seed in range(30)
    ]
    assert max(lengths) <= most < 2 * max(lengths)


@pytest.mark.parametrize("schema", [array(DIGIT), recursive(required=False)])
def test_recursion_and_open_arrays_have_no_bound(schema: HandBuilt):
    assert Longest(Layouts(SLOTS, all_properties=False)).of(schema) == float("inf")
