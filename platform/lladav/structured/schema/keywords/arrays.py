"""Keywords about arrays."""

from __future__ import annotations

from lladav.structured.schema.constraints.arrays import ArrayConstraints, ItemCount, ItemRules
from lladav.structured.schema.formulas import (
    TRUE,
    Alternatives,
    Check,
    Condition,
    Formula,
    held,
    held_only,
)
from lladav.structured.schema.json_values import JsonType
from lladav.structured.schema.subschemas import Subschema


def items(subschema: Subschema, kind: JsonType) -> Formula:
    """``prefixItems``, ``items`` and ``additionalItems``."""
    del kind
    rules = ItemRules(subschema)

    def otherwise() -> Alternatives:
        wrong = [
            ArrayConstraints(min_items=n + 1, items_at=((n, ~Condition(each)),))
            for n, each in enumerate(rules.prefix)
        ]
        if rules.rest and rules.prefix:
            n = len(rules.prefix)
            wrong.append(ArrayConstraints(min_items=n + 1, items_at=((n, ~Condition(rules.rest)),)))
        elif rules.rest:
            wrong.append(ArrayConstraints(min_items=1, counts=(ItemCount(~Condition(rules.rest), 1, None),)))
        return tuple((Check(each),) for each in wrong)

    return (Check(ArrayConstraints(rules=(rules,)), otherwise),)


def min_items(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("minItems"))
    return held(ArrayConstraints(min_items=count), ArrayConstraints(max_items=count - 1))


def max_items(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    count = int(subschema.get("maxItems"))
    return held(ArrayConstraints(max_items=count), ArrayConstraints(min_items=count + 1))


def unique_items(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    if not subschema.get("uniqueItems"):
        return TRUE
    return held_only(ArrayConstraints(unique=True), subschema, "uniqueItems")


def contains(subschema: Subschema, kind: JsonType) -> Formula:
    """``contains`` with ``minContains`` and ``maxContains``."""
    del kind
    condition = Condition(subschema.at("contains"))
    least, most = int(subschema.get("minContains", 1)), subschema.get("maxContains")
    too_few = [ArrayConstraints(counts=(ItemCount(condition, 0, least - 1),))] if least else []
    too_many = [] if most is None else [_at_least(condition, int(most) + 1)]
    counted = ItemCount(condition, least, None if most is None else int(most))
    return held(ArrayConstraints(min_items=least, counts=(counted,)), *too_few, *too_many)


def _at_least(condition: Condition, count: int) -> ArrayConstraints:
    return ArrayConstraints(min_items=count, counts=(ItemCount(condition, count, None),))


def unevaluated_items(subschema: Subschema, kind: JsonType) -> Formula:
    del kind
    return held_only(ArrayConstraints(unevaluated=(ItemRules(subschema),)), subschema, "unevaluatedItems")
