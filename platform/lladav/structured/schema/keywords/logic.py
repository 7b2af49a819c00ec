"""Keywords that apply to every type: references, and combinations of subschemas."""

from __future__ import annotations

from collections.abc import Callable

from lladav.structured.errors import SchemaError
from lladav.structured.forms import JsonValue
from lladav.structured.schema.formulas import TRUE, Condition, Either, Formula, negation
from lladav.structured.schema.json_values import JsonType, ValueSet
from lladav.structured.schema.keywords.constants import constants_of, listed
from lladav.structured.schema.subschemas import Subschema

MAX_EXCLUSIVE = 1000
"""Members of ``oneOf``, apart from constants."""


def reference(keyword: str) -> Callable[[Subschema, JsonType], Formula]:
    """A reference keyword."""

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
    """One of the members; those that only list constants are one alternative."""
    constants, others = _split(_members(subschema, "anyOf"))
    alternatives = tuple((each,) for each in others)
    listed_values = listed(ValueSet.of(value for values in constants for value in values), kind)
    return (Either((listed_values, *alternatives) if constants else alternatives),)


def one_of(subschema: Subschema, kind: JsonType) -> Formula:
    """Each member without all others; those that only list constants are one alternative."""
    members = _members(subschema, "oneOf")
    constants, others = _split(members)
    values = ValueSet.of(value for each in constants for value in each)
    if len(values.values) < sum(map(len, constants)):
        constants, others = [], [*members]  # a value that occurs twice is not valid
    if len(others) > MAX_EXCLUSIVE:
        raise SchemaError(f"{subschema.path}/oneOf", f"has more than {MAX_EXCLUSIVE} members")
    negated = [~each for each in others]
    if not constants:
        return (Either(tuple((each, *negated[:n], *negated[n + 1 :]) for n, each in enumerate(others))),)
    held = listed(values, kind)
    unlisted = Either(negation(held))
    alternatives = ((each, unlisted, *negated[:n], *negated[n + 1 :]) for n, each in enumerate(others))
    return (Either(((*held, *negated), *alternatives)),)


def _split(members: tuple[Condition, ...]) -> tuple[list[tuple[JsonValue, ...]], list[Condition]]:
    """The values of members that only list constants, and the other members."""
    found = [(each, constants_of(each.subschema)) for each in members]
    constants = [values for _, values in found if values is not None]
    return constants, [each for each, values in found if values is None]


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
