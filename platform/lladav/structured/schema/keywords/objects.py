"""Keywords about objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lladav.structured.errors import SchemaError
from lladav.structured.schema.constraints.objects import ObjectConstraints, PropertyRules, is_key
from lladav.structured.schema.formulas import (
    Alternatives,
    Check,
    Condition,
    Either,
    Formula,
    Late,
    NodeSource,
    Unenforceable,
    held,
    held_only,
)
from lladav.structured.schema.json_values import JsonType, satisfies
from lladav.structured.schema.subschemas import Subschema


def _present(*names: str) -> Check:
    """Objects with all properties."""
    constraints = ObjectConstraints(required=names)
    return Check(constraints, lambda: tuple((Check(ObjectConstraints(forbidden=(name,))),) for name in names))


def _absent(name: str) -> Check:
    """Objects without a property."""
    return Check(ObjectConstraints(forbidden=(name,)), lambda: ((_present(name),),))


def _violating(name: str, condition: Condition) -> Formula:
    """Objects whose property does not satisfy a condition."""
    return (Check(ObjectConstraints(required=(name,), conditions=((name, ~condition),))),)


def required(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return (_present(*subschema.get("required")),)


def min_properties(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("minProperties"))
    return held(ObjectConstraints(min_properties=count), ObjectConstraints(max_properties=count - 1))


def max_properties(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("maxProperties"))
    return held(ObjectConstraints(max_properties=count), ObjectConstraints(min_properties=count + 1))


def properties(subschema: Subschema, kind: JsonType) -> Formula:
    """``properties``, ``patternProperties`` and ``additionalProperties``."""
    del kind
    rules = PropertyRules(subschema)

    def otherwise() -> Alternatives:
        listed = tuple(_violating(name, Condition(subschema.at("properties", name))) for name in rules.names)
        matching = tuple((_some_matching(rules, pattern),) for pattern in rules.patterns)
        return (*listed, *matching, *(((_some_additional(rules),),) if rules.additional else ()))

    return (Check(ObjectConstraints(rules=(rules,)), otherwise),)


def _some_matching(rules: PropertyRules, pattern: str) -> Late:
    condition = Condition(rules.subschema.at("patternProperties", pattern))
    error = SchemaError(f"{rules.subschema.path}/patternProperties", "cannot be negated here")
    return _some(lambda name: satisfies(name, "pattern", pattern), condition, error)


def _some_additional(rules: PropertyRules) -> Late:
    assert rules.additional
    condition = Condition(rules.additional)
    error = SchemaError(f"{rules.subschema.path}/additionalProperties", "cannot be negated here")

    def is_additional(name: str) -> bool:
        matched = any(satisfies(name, "pattern", pattern) for pattern in rules.patterns)
        return name not in rules.names and not matched

    return _some(is_additional, condition, error)


def _some(applies: Callable[[str], bool], condition: Condition, error: SchemaError) -> Late:
    """Some property whose name applies does not satisfy a condition. Only known names are tried."""

    def alternatives(constraints: Any, nodes: NodeSource) -> Alternatives:
        del nodes
        names = (name for name in constraints.known_names if applies(name))
        return (*(_violating(name, condition) for name in names), (Unenforceable(error),))

    return Late(alternatives)


def property_names(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    condition = Condition(subschema.at("propertyNames"))
    error = SchemaError(f"{subschema.path}/propertyNames", "cannot be negated here")

    def some_other(constraints: Any, nodes: NodeSource) -> Alternatives:
        keys = nodes.names((~condition,))
        names = (name for name in constraints.known_names if is_key(name, keys))
        return (*((_present(name),) for name in names), (Unenforceable(error),))

    return (Check(ObjectConstraints(names=(condition,)), lambda: ((Late(some_other),),)),)


def dependent_required(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return tuple(_requires(name, others) for name, others in subschema.get("dependentRequired").items())


def dependent_schemas(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return tuple(_implies(subschema, "dependentSchemas", name) for name in subschema.get("dependentSchemas"))


def dependencies(subschema: Subschema, kind: JsonType) -> Formula:
    """Up to draft 7, one keyword for names and schemas. Later some validators still assert it."""
    del kind
    error = SchemaError(f"{subschema.path}/dependencies", "cannot be negated in this draft")
    return tuple(
        replace(
            _requires(name, value) if isinstance(value, list) else _implies(subschema, "dependencies", name),
            not_negatable=None if subschema.draft.ref_is_alone else error,
        )
        for name, value in subschema.get("dependencies").items()
    )


def _requires(name: str, others: list[str]) -> Either:
    return Either(((_present(name, *others),), (_absent(name),)))


def _implies(subschema: Subschema, keyword: str, name: str) -> Either:
    return Either(((_present(name), Condition(subschema.at(keyword, name))), (_absent(name),)))


def unevaluated_properties(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    rules = PropertyRules(subschema)
    return held_only(ObjectConstraints(unevaluated=(rules,)), subschema, "unevaluatedProperties")
