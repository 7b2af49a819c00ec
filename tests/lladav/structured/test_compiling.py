"""Compiled structures: every answer is valid and fits, whatever is chosen and written."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lladav.inputs.chat import ChatTokenizer
from lladav.structured import compiling
from lladav.structured.budget import Budget
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from lladav.structured.forms import JsonValue
from lladav.structured.schema.reading import ReadSchema, read_schema
from tests.lladav.structured.walks import Walk, random_walk

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
NAMES = st.sampled_from(["a", "b", "name", "né", 'a"b', ""])
SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 3, "maxLength": 9},
        {"type": "integer", "minimum": -5},
        {"type": ["number", "null"]},
        {"enum": ["red", "green", 3, None, True, [1], {"a": 1}]},
        {"const": "x"},
        {"type": "boolean"},
    ]
)
TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#"}},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["value"],
    "additionalProperties": False,
}


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, values, max_size=5))
    others = draw(st.sampled_from([False, False, True, {"type": "integer"}]))
    limits: dict[str, Any] = {"minProperties": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        limits["maxProperties"] = draw(st.integers(3, 6))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": others,
        **limits,
    }


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": draw(values), "uniqueItems": draw(st.booleans())}
    schema["minItems"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        schema["maxItems"] = draw(st.integers(2, 4))
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(values, min_size=1, max_size=2))
    if draw(st.integers(0, 4)) == 0:
        schema |= {"contains": draw(values), "minContains": draw(st.integers(0, 2))}
    return schema


def unions(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(values, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas})


SCHEMAS = st.recursive(
    SCALARS,
    lambda values: objects(values) | arrays(values) | unions(values),
    max_leaves=8,
)


def compiled(schema: Any, max_tokens: int = 200, **settings: Any) -> Structure:
    spec = StructureSpec(StructureKind.json_schema, json.dumps(schema), **settings)
    return compile_structure(spec, TOKENIZER, max_tokens)


def checked_walk(schema: Any, structure: Structure, seed: int) -> Walk:
    """A random answer that is valid and fits."""
    walk = random_walk(structure.outline, TOKENIZER, random.Random(seed))
    value = json.loads(walk.text)
    jsonschema.Draft202012Validator(schema).validate(value)
    jsonschema_rs.validator_for(schema).validate(value)
    assert walk.positions <= structure.max_tokens
    return walk


def long_enough(schema: Any, extra: int, **settings: Any) -> Structure | None:
    """The structure with some tokens more than it needs; None if no answer can be guaranteed."""
    try:
        fewest = compiled(schema, 100_000, **settings).min_tokens
    except SchemaError as error:
        assert error.code in ("impossible_schema", "unsupported_schema")  # noqa: PT017 - not always raised
        return None
    return compiled(schema, fewest + extra, **settings)


@given(SCHEMAS, st.integers(0, 60), st.integers(0, 1000), st.booleans())
@settings(deadline=None)
def test_every_answer_is_valid_and_fits(schema: Any, extra: int, seed: int, all_properties: bool):
    structure = long_enough(schema, extra, all_properties=all_properties, value_tokens=5)
    if structure is not None:
        for each in range(seed, seed + 3):
            checked_walk(schema, structure, each)


@pytest.mark.parametrize("extra", [0, 1, 7, 40, 300])
@pytest.mark.parametrize("seed", range(5))
def test_recursive_schemas_end_in_time(extra: int, seed: int):
    structure = long_enough(TREE, extra)
    assert structure is not None
    checked_walk(TREE, structure, seed)


def test_recursive_schemas_use_the_tokens_that_there_are():
    linked = {**TREE, "properties": {"next": TREE["properties"]["next"]}, "required": ["next"]}
    depths = [
        max(checked_walk(linked, compiled(linked, tokens), seed).text.count("next") for seed in range(50))
        for tokens in (20, 60)
    ]
    assert 1 <= depths[0] < depths[1]


def test_wide_objects_are_written_by_choice_or_completely():
    schema = {
        "type": "object",
        "properties": {f"property {number}": {"type": "boolean"} for number in range(200)},
        "required": [f"property {number}" for number in range(0, 200, 50)],
        "additionalProperties": False,
    }
    chosen = json.loads(checked_walk(schema, compiled(schema, 3000), 0).text)
    complete = checked_walk(schema, compiled(schema, 6000, all_properties=True), 0)
    assert 4 <= len(chosen) < 200
    assert list(json.loads(complete.text)) == [*schema["properties"]]
    assert complete.choices == 0


def test_deep_schemas_are_written():
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(30):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    assert checked_walk(schema, compiled(schema, 1000), 0).text.count("{") == 30


def test_an_answer_that_cannot_fit_is_rejected_with_the_tokens_it_needs():
    schema = {"type": "array", "items": {"type": "string", "minLength": 30}, "minItems": 3}
    fewest = compiled(schema, 1000).min_tokens
    with pytest.raises(SchemaError, match=rf"at least {fewest} tokens.* at most 20"):
        compiled(schema, 20)
    checked_walk(schema, compiled(schema, fewest), 0)


def test_the_error_of_a_part_names_its_path():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
    with pytest.raises(SchemaError) as caught:
        compiled(schema)
    assert caught.value.path.startswith("#/properties/a")


def test_a_structure_without_choices_has_an_exact_length():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    structure = compiled({**schema, "additionalProperties": False}, 1000)
    walk = random_walk(structure.outline, TOKENIZER, random.Random(0))
    assert (walk.positions, walk.choices) == (structure.max_tokens, 0)


def test_a_structure_whose_lengths_are_bounded_takes_no_more_than_these():
    bounded = {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}
    assert compiled(bounded, 1000).max_tokens < 30
    assert compiled({**bounded, "maxItems": 10**6}, 1000).max_tokens == 1000


def test_a_choice_is_one_of_the_texts():
    spec = StructureSpec(StructureKind.choice, '["left", "right", "the left", "näh"]')
    structure = compile_structure(spec, TOKENIZER, 50)
    found = {random_walk(structure.outline, TOKENIZER, random.Random(seed)).text for seed in range(40)}
    assert found == {"left", "right", "the left", "näh"}
    assert structure.max_tokens < 50


@pytest.mark.parametrize("source", ["[]", '["a", 1]', '"a"', "[", '["\\ud800"]'])
def test_a_choice_of_something_else_is_rejected(source: str):
    with pytest.raises(SchemaError) as caught:
        compile_structure(StructureSpec(StructureKind.choice, source), TOKENIZER, 50)
    assert caught.value.code == "invalid_schema"


@pytest.mark.parametrize("seed", range(5))
def test_a_regular_expression_is_matched_as_a_whole(seed: int):
    structure = compile_structure(StructureSpec(StructureKind.regex, '[a-c]+ ("é"|x{3})'), TOKENIZER, 30)
    walk = random_walk(structure.outline, TOKENIZER, random.Random(seed))
    assert re.fullmatch('[a-c]+ ("é"|x{3})', walk.text)
    assert walk.positions == structure.max_tokens == 30


@pytest.mark.parametrize("seed", range(5))
def test_a_json_object_is_an_object(seed: int):
    structure = compile_structure(StructureSpec(StructureKind.json_object), TOKENIZER, 150)
    walk = random_walk(structure.outline, TOKENIZER, random.Random(seed))
    assert isinstance(json.loads(walk.text), dict)
    assert walk.positions <= 150


@pytest.mark.parametrize("source", ["{", "[" * 100_000, '{"const": NaN}', "1"])
def test_a_schema_that_is_not_one_is_rejected(source: str):
    with pytest.raises(SchemaError) as caught:
        compile_structure(StructureSpec(StructureKind.json_schema, source), TOKENIZER, 50)
    assert caught.value.code == "invalid_schema"


def test_compiled_structures_are_kept():
    spec = StructureSpec(StructureKind.json_schema, json.dumps(TREE))
    assert compile_structure(spec, TOKENIZER, 90) is compile_structure(spec, TOKENIZER, 90)


def test_threads_may_compile_and_decode_at_the_same_time():
    def answer(seed: int) -> None:
        checked_walk(TREE, compiled(TREE, 64 + seed % 3), seed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(32)))


def test_a_refused_structure_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[object]()

    def counted(schema: JsonValue, budget: Budget) -> ReadSchema:
        read.append(schema)
        return read_schema(schema, budget)

    monkeypatch.setattr(compiling, "read_schema", counted)
    spec = StructureSpec(
        StructureKind.json_schema, '{"type": "integer", "minimum": 2, "maximum": 1, "title": "once"}'
    )
    errors = []
    for max_tokens in (16, 16, 32):
        with pytest.raises(SchemaError) as caught:
            compile_structure(spec, TOKENIZER, max_tokens)
        errors.append(caught.value)
    assert {(error.path, error.reason, error.code) for error in errors} == {
        ("#", "permits no value", "impossible_schema")
    }
    assert len(read) == 1
