"""Keywords that apply to every type: types, constants, references, and combinations of subschemas."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from lladav.structured.forms import JsonValue, NumberForm, StringForm
from lladav.structured.schema.constraints.arrays import ArrayConstraints
from lladav.structured.schema.constraints.numbers import NumberConstraints
from lladav.structured.schema.constraints.objects import ObjectConstraints
from lladav.structured.schema.constraints.scalars import StringConstraints, ValueConstraints
from lladav.structured.schema.formulas import FALSE, TRUE, Alternatives, Check, Condition, Either, Formula
from lladav.structured.schema.json_values import JsonType, distinct, exact, identity, type_of
from lladav.structured.schema.subschemas import Subschema

UNCONSTRAINED = {
    JsonType.NULL: ValueConstraints((None,)),
    JsonType.BOOLEAN: ValueConstraints((True, False)),
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
        return (Check(NumberConstraints(NumberForm(integer=True)), _is_no_integer),)
    return FALSE


def _is_no_integer() -> Alternatives:
    return ((Check(NumberConstraints(not_multiples=(Fraction(1),))),),)


def enum(subschema: Subschema, kind: JsonType) -> Formula:
    return _one_of(subschema.get("enum"), kind)


def const(subschema: Subschema, kind: JsonType) -> Formula:
    assert isinstance(subschema.schema, dict)
    return _one_of([subschema.schema["const"]], kind)


def _one_of(values: list[JsonValue], kind: JsonType) -> Formula:
    own = distinct(value for value in values if type_of(value) == kind)
    if not own:
        return FALSE
    constraints = ValueConstraints if kind in (JsonType.NULL, JsonType.BOOLEAN) else None
    held = constraints(own) if constraints else type(UNCONSTRAINED[kind])(values=own)
    return (Check(held, lambda: (_none_of(own, kind),)),)


def _none_of(values: tuple[JsonValue, ...], kind: JsonType) -> Formula:
    """No value of a list."""
    if kind == JsonType.STRING:
        excluded = frozenset(value for value in values if isinstance(value, str))
        return (Check(StringConstraints(StringForm(excluded=excluded))),)
    if kind == JsonType.NUMBER:
        numbers = frozenset(exact(value) for value in values if isinstance(value, int | float))
        return (Check(NumberConstraints(NumberForm(excluded=numbers))),)
    if kind in (JsonType.NULL, JsonType.BOOLEAN):
        keys = {identity(value) for value in values}
        all_values = UNCONSTRAINED[kind].values or ()
        return (Check(ValueConstraints(tuple(v for v in all_values if identity(v) not in keys))),)
    return tuple(Either(_differs_from(value)) for value in values)


def _differs_from(value: JsonValue) -> Alternatives:
    """Arrays of other lengths, or objects without a property or with more properties."""
    if isinstance(value, list):
        longer = Check(ArrayConstraints(min_items=len(value) + 1))
        return ((longer,), (Check(ArrayConstraints(max_items=len(value) - 1)),))
    assert isinstance(value, dict)
    without = ((Check(ObjectConstraints(forbidden=(name,))),) for name in value)
    return (*without, (Check(ObjectConstraints(min_properties=len(value) + 1)),))


def reference(keyword: str):
    """A reference; a dynamic one resolves in the scope of its first use."""

    def refer(subschema: Subschema, kind: JsonType) -> Formula:
        del kind
        return (Condition(subschema.target(keyword)),)

    return refer


def _members(subschema: Subschema, keyword: str) -> tuple[Condition, ...]:
    return tuple(Condition(subschema.at(keyword, n)) for n in range(len(subschema.get(keyword))))


def all_of(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return _members(subschema, "allOf")


def any_of(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return (Either(tuple((each,) for each in _members(subschema, "anyOf"))),)


def one_of(subschema: Subschema, kind: JsonType) -> Formula:
    """Each member without all others; constants that occur once exclude each other anyway."""
    del kind
    members = _members(subschema, "oneOf")
    keys = [_constant_keys(each.subschema) for each in members]
    counts = Counter(key for some in keys if some is not None for key in some)
    alone = [some is not None and all(counts[key] == 1 for key in some) for some in keys]
    negated = [~member for member in members]
    return (
        Either(
            tuple(
                (member, *(negated[m] for m in range(len(members)) if m != n and not (alone[n] and alone[m])))
                for n, member in enumerate(members)
            )
        ),
    )


def _constant_keys(subschema: Subschema) -> frozenset[object] | None:
    """Keys of the values that ``const`` or ``enum`` permits; None without them."""
    schema = subschema.schema
    if isinstance(schema, dict) and "const" in schema and subschema.draft.has("const"):
        return frozenset([identity(schema["const"])])
    values = subschema.get("enum")
    return None if values is None else frozenset(identity(value) for value in values)


def not_keyword(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return (~Condition(subschema.at("not")),)


def if_keyword(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    condition = Condition(subschema.at("if"))
    then, otherwise = (
        (Condition(subschema.at(keyword)),) if subschema.get(keyword) is not None else ()
        for keyword in ("then", "else")
    )
    return (Either(((condition, *then), (~condition, *otherwise))),) if then or otherwise else TRUE
