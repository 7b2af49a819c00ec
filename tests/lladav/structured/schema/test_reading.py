"""Reading a schema: forms by keyword, drafts, references, warnings and errors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from lladav.structured.errors import SchemaError
from lladav.structured.forms import (
    ArrayForm,
    ConstantForm,
    Form,
    NumberForm,
    ObjectForm,
    StringForm,
)
from lladav.structured.schema.reading import read_schema

DRAFT4 = "http://json-schema.org/draft-04/schema#"
DRAFT7 = "http://json-schema.org/draft-07/schema#"


def forms(schema: Any) -> list[Form]:
    return [*read_schema(schema).root.forms]


def names(schema: Any) -> list[list[str]]:
    """The listed properties of each form."""
    return [[*form.properties] for form in forms(schema) if isinstance(form, ObjectForm)]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, StringForm(2, 3)),
        ({"type": "string", "pattern": "^a", "not": {"pattern": "b"}}, StringForm(0, None, ("^a",), ("b",))),
        ({"type": "string", "format": "date"}, StringForm(formats=("date",))),
        ({"type": "string", "format": "colour"}, StringForm()),
        ({"type": "string", "not": {"enum": ["a", 1]}}, StringForm(excluded=frozenset("a"))),
        ({"type": "integer", "exclusiveMinimum": 1}, NumberForm(Fraction(1), None, True, False, True)),
        ({"type": "number", "multipleOf": 0.01}, NumberForm(multiples=(Fraction(1, 100),))),
        (
            {"type": "number", "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]},
            NumberForm(multiples=(Fraction(12),)),
        ),
        ({"type": ["null", "boolean"]}, ConstantForm((None, True, False))),
        ({"enum": [1.0, 1, True, "1"], "type": ["integer", "string"]}, ConstantForm((1, "1"))),
        ({"enum": ["2024-02-30", "2024-02-29"], "format": "date"}, ConstantForm(("2024-02-29",))),
        (
            {"enum": [{"a": 1}, {"a": "x"}], "properties": {"a": {"type": "string"}}},
            ConstantForm(({"a": "x"},)),
        ),
        ({"oneOf": [{"const": n} for n in range(100)]}, ConstantForm(tuple(range(100)))),
        ({"type": "integer", "minimum": 0, "maximum": 6, "not": {"multipleOf": 2}}, ConstantForm((1, 3, 5))),
    ],
)
def test_scalars_and_constants(schema: Any, expected: Form) -> None:
    assert forms(schema) == [expected]


def test_alternatives_keep_the_order_of_the_text() -> None:
    found = forms({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "integer"}]})
    assert [type(form) for form in found] == [ObjectForm, StringForm, NumberForm]


def test_no_type_is_any_type() -> None:
    found = {type(form) for form in forms({"description": "anything"})}
    assert found == {StringForm, NumberForm, ConstantForm, ArrayForm, ObjectForm}


def test_properties_keep_the_order_of_the_text_and_undescribed_ones_come_after() -> None:
    schema = {"type": "object", "required": ["q", "a"], "properties": {"z": {}, "a": {}, "b": False}}
    assert names(schema) == [["z", "a", "q"]]


def test_members_of_one_of_exclude_each_other() -> None:
    pair = {"type": "object", "properties": {"a": {}, "b": {}}}
    exclusive = {**pair, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert names(exclusive) == [["a"], ["b"]]
    kinds = [{"properties": {"kind": {"const": n}, f"p{n}": {}}, "required": ["kind"]} for n in range(3)]
    assert names({"type": "object", "oneOf": kinds}) == [["kind", f"p{n}"] for n in range(3)]


def test_conditions_are_decided() -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "size": {"type": "integer"}},
        "required": ["kind"],
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["size"]},
        "else": {"properties": {"size": False}},
    }
    found = [form for form in forms(schema) if isinstance(form, ObjectForm)]
    assert [(form.properties["kind"].forms, "size" in form.required) for form in found] == [
        ((ConstantForm(("a",)),), True),
        ((ConstantForm(("b",)),), False),
    ]


def test_names_of_rules_exclude_listed_and_forbidden_names() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {}, "b": False},
        "patternProperties": {"^x": {"type": "string"}},
        "additionalProperties": {"type": "integer"},
        "not": {"required": ["c"]},
    }
    (form,) = forms(schema)
    assert isinstance(form, ObjectForm)
    assert [(rule.key.patterns, rule.key.not_patterns) for rule in form.rules] == [
        (("^x",), ()),
        ((), ("^x",)),
    ]
    assert {rule.key.excluded for rule in form.rules} == {frozenset("abc")}


def test_other_names_are_offered_only_if_the_schema_mentions_or_needs_them() -> None:
    listed = {"type": "object", "properties": {"a": {}}}
    rules = [
        len(form.rules)
        for schema in (
            listed,
            {**listed, "additionalProperties": True},
            {**listed, "minProperties": 2},
            {"type": "object"},
        )
        for form in forms(schema)
        if isinstance(form, ObjectForm)
    ]
    assert rules == [0, 1, 1, 1]


def test_keywords_beside_a_reference_are_ignored_up_to_draft_7() -> None:
    schema = {"$ref": "#/definitions/a", "maxLength": 3, "definitions": {"a": {"type": "string"}}}
    assert forms({"$schema": DRAFT7, "allOf": [schema], **schema}) == [StringForm()]
    assert forms(schema) == [StringForm(0, 3)]


def test_draft_4_has_switches_for_exclusive_bounds() -> None:
    schema = {"$schema": DRAFT4, "type": "number", "minimum": 1, "exclusiveMinimum": True}
    assert forms(schema) == [NumberForm(Fraction(1), low_excluded=True)]


def test_base64_is_asserted_where_a_validator_asserts_it() -> None:
    schema = {"enum": ["YQ==", "!"], "contentEncoding": "base64"}
    assert forms({"$schema": DRAFT7, **schema}) == [ConstantForm(("YQ==",))]
    assert forms(schema) == [ConstantForm(("YQ==", "!"))]


@pytest.mark.parametrize("reference", ["#/$defs/a", "#name", "other", "https://example.org/other"])
def test_references_by_pointer_anchor_and_id(reference: str) -> None:
    definitions = {
        "a": {"$id": "other", "$anchor": "inner", "type": "string"},
        "b": {"$anchor": "name", "type": "string"},
    }
    schema = {"$id": "https://example.org/root", "$ref": reference, "$defs": definitions}
    assert forms(schema) == [StringForm()]


def test_a_metaschema_is_known() -> None:
    assert any(
        isinstance(form, ObjectForm) and "minLength" in form.properties for form in forms({"$ref": DRAFT7})
    )


def test_recursion_ends_where_a_value_does() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    (form,) = forms(tree)
    assert isinstance(form, ObjectForm)
    assert form.properties["child"].forms[0] == form


def test_keywords_and_formats_without_effect_are_listed_once() -> None:
    inner = {"x-order": 1, "format": "int32", "title": "t", "default": {"x-data": 1}}
    read = read_schema({"properties": {"a": inner, "b": inner}, "nullable": True})
    assert read.warnings == (
        "unknown keywords without effect: nullable, x-order",
        "unknown formats without effect: int32",
    )


@pytest.mark.parametrize(
    ("schema", "code", "words"),
    [
        (3, "invalid_schema", "# is not a schema"),
        ({"type": "file"}, "invalid_schema", "#/type is malformed"),
        ({"properties": {"a/b": 3}}, "invalid_schema", "#/properties/a~1b is malformed"),
        ({"minimum": float("inf")}, "invalid_schema", "infinite"),
        ({"$ref": "#/x", "x": {"minLength": -1}}, "invalid_schema", "malformed"),
        ({"$ref": "https://example.org/a"}, "unsupported_schema", "not part of the schema"),
        ({"type": "array", "not": {"uniqueItems": True}}, "unsupported_schema", "#/not/uniqueItems"),
        (False, "impossible_schema", "no value"),
        ({"type": "string", "enum": [1]}, "impossible_schema", "no value"),
        ({"type": "integer", "minimum": 1, "maximum": 0}, "impossible_schema", "no value"),
        ({"$ref": "#"}, "impossible_schema", "no value"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
            "impossible_schema",
            "no value",
        ),
        ({"type": "array", "minItems": 2, "items": False}, "impossible_schema", "no value"),
    ],
)
def test_errors_name_the_place_and_the_reason(schema: Any, code: str, words: str) -> None:
    with pytest.raises(SchemaError) as raised:
        read_schema(schema)
    assert raised.value.code == code
    assert words in str(raised.value)
