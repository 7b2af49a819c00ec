"""Constraints on objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lladav.structured.forms import ConstantForm, Form, JsonValue, KeyRule, ObjectForm, StringForm
from lladav.structured.schema.constraints.scalars import (
    both,
    has_string,
    smaller,
    union,
)
from lladav.structured.schema.formulas import Condition, NodeSource
from lladav.structured.schema.json_values import ValueSet, common, satisfies
from lladav.structured.schema.subschemas import Subschema

MAX_PATTERNS = 8
"""Patterns of names of one object; with more, only listed names are offered."""


@dataclass(frozen=True)
class PropertyRules:
    """The schemas of properties by name that one subschema gives."""

    subschema: Subschema
    owners: frozenset[Subschema] = frozenset()
    """Enclosing subschemas with ``unevaluatedProperties``."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.subschema.get("properties", {}))

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(self.subschema.get("patternProperties", {}))

    @property
    def additional(self) -> Subschema | None:
        if self.subschema.get("additionalProperties") is None:
            return None
        return self.subschema.at("additionalProperties")

    def of_name(self, name: str) -> tuple[Subschema, ...]:
        """The schemas of the property of a name."""
        listed = name in self.subschema.get("properties", {})
        found = [self.subschema.at("properties", name)] if listed else []
        patterns = (pattern for pattern in self.patterns if satisfies(name, "pattern", pattern))
        return self._or_additional((*found, *self._of_patterns(patterns)))

    def of_pattern(self, matched: str | None) -> tuple[Subschema, ...]:
        """The schemas of a property that is not listed, and whose name matches one pattern, or none."""
        return self._or_additional((*self._of_patterns(each for each in self.patterns if each == matched),))

    def _of_patterns(self, patterns: Iterator[str]) -> Iterator[Subschema]:
        return (self.subschema.at("patternProperties", pattern) for pattern in patterns)

    def _or_additional(self, found: tuple[Subschema, ...]) -> tuple[Subschema, ...]:
        return found or ((self.additional,) if self.additional else ())


@dataclass(frozen=True)
class ObjectConstraints:
    """Objects by names and their schemas, or the values of a list."""

    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    rules: tuple[PropertyRules, ...] = ()
    conditions: tuple[tuple[str, Condition], ...] = ()
    """Further conditions on single properties."""
    names: tuple[Condition, ...] = ()
    """Conditions on all names."""
    min_properties: int = 0
    max_properties: int | None = None
    unevaluated: tuple[PropertyRules, ...] = ()
    """Subschemas with ``unevaluatedProperties``."""
    values: ValueSet | None = None

    @property
    def size(self) -> int:
        parts = self.required, self.forbidden, self.rules, self.conditions, self.names
        return sum(map(len, parts))

    def merge(self, other: ObjectConstraints, nodes: NodeSource) -> ObjectConstraints | None:
        if other.conditions or other.forbidden:
            other = self._without_implied(other, nodes)
        merged = self._joined(other)
        most = merged.max_properties
        fails = (
            not {*merged.required}.isdisjoint(merged.forbidden)
            or (most is not None and most < max(merged.min_properties, len(merged.required)))
            or (merged.values is not None and not merged.values)
            or any(merged._is_impossible(name, nodes) for name in merged._touched(other))
        )
        return None if fails else merged

    def _joined(self, other: ObjectConstraints) -> ObjectConstraints:
        return ObjectConstraints(
            union(self.required, other.required),
            union(self.forbidden, other.forbidden),
            union(self.rules, other.rules),
            union(self.conditions, other.conditions),
            union(self.names, other.names),
            max(self.min_properties, other.min_properties),
            smaller(self.max_properties, other.max_properties),
            union(self.unevaluated, other.unevaluated),
            common(self.values, other.values),
        )

    def _without_implied(self, other: ObjectConstraints, nodes: NodeSource) -> ObjectConstraints:
        """The other constraints without conditions and forbidden names that follow from these."""
        joined = union(self.required, other.required)
        return replace(
            other,
            conditions=tuple(
                (name, condition)
                for name, condition in other.conditions
                if name not in joined or not nodes.is_empty((*self.of_name(name), ~condition))
            ),
            forbidden=tuple(name for name in other.forbidden if not nodes.is_empty(self.of_name(name))),
        )

    def _touched(self, other: ObjectConstraints) -> tuple[str, ...]:
        """Required names whose schemas the other constraints may change."""
        changed = {*other.required, *(name for name, _ in other.conditions)}
        return tuple(name for name in self.required if other.rules or name in changed)

    def _is_impossible(self, name: str, nodes: NodeSource) -> bool:
        conditions = self.of_name(name)
        # A schema alone is examined when it is asked for.
        is_false = any(condition.holds and condition.subschema.schema is False for condition in conditions)
        return is_false or (len(conditions) > 1 and nodes.is_empty(conditions))

    def within(self, owners: frozenset[Subschema]) -> ObjectConstraints:
        return replace(
            self,
            rules=tuple(replace(each, owners=owners) for each in self.rules),
            unevaluated=tuple(replace(each, owners=owners) for each in self.unevaluated),
        )

    @property
    def known_names(self) -> tuple[str, ...]:
        """All names that a constraint mentions, in the order of the text; required ones come after."""
        listed = (name for rules in self.rules for name in rules.names)
        return tuple(dict.fromkeys((*listed, *self.required, *(name for name, _ in self.conditions))))

    def of_name(self, name: str) -> tuple[Condition, ...]:
        """Conditions on the property of a name, without ``unevaluatedProperties``."""
        found = [Condition(each) for rules in self.rules for each in rules.of_name(name)]
        return (*found, *(condition for other, condition in self.conditions if other == name))

    def _keys(self, nodes: NodeSource) -> tuple[Form, ...]:
        """The forms of all names."""
        return nodes.names(self.names) if self.names else (StringForm(),)

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        return (
            isinstance(value, dict)
            and (self.values is None or value in self.values)
            and self.min_properties <= len(value)
            and (self.max_properties is None or len(value) <= self.max_properties)
            and value.keys() >= {*self.required}
            and value.keys().isdisjoint(self.forbidden)
            and all(is_key(name, self._keys(nodes)) for name in value)
            and all(nodes.accepts(nodes.node(self._all_of_name(name)), item) for name, item in value.items())
        )

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        if self.values is not None:
            rules = replace(self, values=None)
            if values := self.values.where(lambda value: rules.admits(value, nodes)):
                yield ConstantForm(values.values)
            return
        keys = self._keys(nodes)
        listed = (value for form in keys if isinstance(form, ConstantForm) for value in form.values)
        names = union(self.known_names, tuple(name for name in listed if isinstance(name, str)))
        permitted = [name for name in names if name not in self.forbidden and is_key(name, keys)]
        if not {*self.required} <= {*permitted}:
            return
        properties = {name: nodes.node(self._all_of_name(name)) for name in permitted}
        excluded = frozenset((*names, *self.forbidden))
        string_keys = tuple(form for form in keys if isinstance(form, StringForm))
        yield ObjectForm(
            properties,
            frozenset(self.required),
            tuple(self._key_rules(string_keys, excluded, self._is_open(len(properties)), nodes)),
            self.min_properties,
            self.max_properties,
        )

    def _all_of_name(self, name: str) -> tuple[Condition, ...]:
        return (*self.of_name(name), *self._of_unevaluated(lambda rules: bool(rules.of_name(name))))

    def _of_unevaluated(self, evaluates) -> Iterator[Condition]:
        """Conditions on a property that the subschemas with ``unevaluatedProperties`` do not evaluate."""
        for each in self.unevaluated:
            owner = each.subschema
            inner = any(owner in other.owners and other is not each for other in self.unevaluated)
            if not inner and not any(owner in rules.owners and evaluates(rules) for rules in self.rules):
                yield Condition(owner.at("unevaluatedProperties"))

    def _is_open(self, num_listed: int) -> bool:
        """Whether names that match no pattern are offered: if the schema mentions them or needs them."""
        mentioned = self.names or self.unevaluated or any(rules.additional for rules in self.rules)
        return bool(mentioned) or not num_listed or self.min_properties > num_listed

    def _key_rules(
        self, keys: tuple[StringForm, ...], excluded: frozenset[str], is_open: bool, nodes: NodeSource
    ) -> Iterator[KeyRule]:
        """Rules for names that match exactly one pattern, and for those that match none."""
        patterns = tuple(dict.fromkeys(pattern for rules in self.rules for pattern in rules.patterns))
        if len(patterns) > MAX_PATTERNS:
            return
        for matched in (*patterns, *([None] if is_open else [])):
            others = tuple(pattern for pattern in patterns if pattern != matched)
            own = StringForm(patterns=(matched,) if matched else (), not_patterns=others, excluded=excluded)
            conditions = [Condition(each) for rules in self.rules for each in rules.of_pattern(matched)]
            conditions += self._of_unevaluated(lambda rules, matched=matched: bool(rules.of_pattern(matched)))
            for key in keys:
                if (form := both(key, own)) is not None:
                    yield KeyRule(form, nodes.node(tuple(conditions)))


def is_key(name: str, keys: tuple[Form, ...]) -> bool:
    """Whether a name has one of the forms."""
    return any(
        name in form.values
        if isinstance(form, ConstantForm)
        else isinstance(form, StringForm) and has_string(form, name)
        for form in keys
    )
