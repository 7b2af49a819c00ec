"""Types and constants."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from lladav.structured.forms import JsonValue, NumberForm, StringForm
from lladav.structured.schema.constraints.arrays import ArrayConstraints
from lladav.structured.schema.constraints.numeric import NumberConstraints
from lladav.structured.schema.constraints.objects import ObjectConstraints
from lladav.structured.schema.constraints.scalars import StringConstraints, ValueConstraints
from lladav.structured.schema.formulas import (
    FALSE,
    TRUE,
    Alternatives,
    Check,
    Constraints,
    Either,
    Formula,
    held,
)
from lladav.structured.schema.json_values import JsonType, ValueSet, exact, type_of
from lladav.structured.schema.subschemas import Subschema

UNCONSTRAINED: dict[JsonType, Any] = {
    JsonType.NULL: ValueConstraints(ValueSet((None,))),
    JsonType.BOOLEAN: ValueConstraints(ValueSet((True, False))),
    JsonType.STRING: StringConstraints(),
    JsonType.NUMBER: NumberConstraints(),
    JsonType.ARRAY: ArrayConstraints(),
    JsonType.OBJECT: ObjectConstraints(),
}
"""The constraints that any value of a type satisfies."""


def type_keyword(subschema: Subschema, kind: JsonType) -> Formula:
    named = subschema.get("type")
    names = named if isinstance(named, list) else [named]
    if kind in names:
        return TRUE
    if kind == JsonType.NUMBER and "integer" in names:
        fractional = NumberConstraints(not_multiples=(Fraction(1),))
        return held(NumberConstraints(NumberForm(integer=True)), fractional)
    return FALSE


def enum(subschema: Subschema, kind: JsonType) -> Formula:
    return listed(ValueSet.of(subschema.get("enum")), kind)


def const(subschema: Subschema, kind: JsonType) -> Formula:
    assert isinstance(subschema.schema, dict)
    return listed(ValueSet((subschema.schema["const"],)), kind)


def listed(values: ValueSet, kind: JsonType) -> Formula:
    """One of some values."""
    own = values.where(lambda value: type_of(value) == kind)
    if not own:
        return FALSE
    return (Check(_constraints(own, kind), lambda: (_none_of(own, kind),)),)


def _constraints(values: ValueSet, kind: JsonType) -> Constraints:
    if kind in (JsonType.NULL, JsonType.BOOLEAN):
        return ValueConstraints(values)
    return replace(UNCONSTRAINED[kind], values=values)


def _none_of(values: ValueSet, kind: JsonType) -> Formula:
    """No value of a list."""
    if kind == JsonType.STRING:
        excluded = frozenset(value for value in values.values if isinstance(value, str))
        return (Check(StringConstraints(StringForm(excluded=excluded))),)
    if kind == JsonType.NUMBER:
        return (Check(NumberConstraints(NumberForm(excluded=frozenset(map(exact, values.values))))),)
    if kind in (JsonType.NULL, JsonType.BOOLEAN):
        left = UNCONSTRAINED[kind].values.where(lambda value: value not in values)
        return (Check(ValueConstraints(left)),)
    return tuple(Either(_differs_from(value)) for value in values.values)


def constants_of(subschema: Subschema) -> tuple[JsonValue, ...] | None:
    """The values of a subschema that only lists some; None for others."""
    schema = subschema.schema
    if isinstance(schema, bool) or subschema.is_reference:
        return None
    asserted = {keyword for keyword in schema if subschema.draft.has(keyword)}
    if not asserted & {"const", "enum"} or not asserted <= {"const", "enum", "type"} or len(asserted) == 3:
        return None
    values = [schema["const"]] if "const" in asserted else schema["enum"]
    own = ValueSet.of(values).where(lambda value: "type" not in schema or _has_type(value, schema["type"]))
    return own.values


def types_of(subschema: Subschema) -> frozenset[JsonType]:
    """The types of values that may satisfy a subschema, as far as ``type`` and ``enum`` tell."""
    if subschema.is_reference:
        return frozenset(JsonType)
    named, values = subschema.get("type"), subschema.get("enum")
    names = named if isinstance(named, list) else [named]
    own = (JsonType.NUMBER if name == "integer" else JsonType(name) for name in names if name)
    types = frozenset(JsonType if named is None else own)
    return types if values is None else types & frozenset(map(type_of, values))


def _has_type(value: JsonValue, named: str | list[str]) -> bool:
    names = named if isinstance(named, list) else [named]
    is_integer = isinstance(value, int | float) and exact(value).denominator == 1
    return type_of(value) in names or ("integer" in names and is_integer and not isinstance(value, bool))


def _differs_from(value: JsonValue) -> Alternatives:
    """Arrays of other lengths, or objects without a property or with more properties."""
    if isinstance(value, list):
        longer = Check(ArrayConstraints(min_items=len(value) + 1))
        return ((longer,), (Check(ArrayConstraints(max_items=len(value) - 1)),))
    assert isinstance(value, dict)
    without = ((Check(ObjectConstraints(forbidden=(name,))),) for name in value)
    return (*without, (Check(ObjectConstraints(min_properties=len(value) + 1)),))
