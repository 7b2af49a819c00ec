"""Constraints on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from lladav.structured.errors import SchemaError
from lladav.structured.forms import ArrayForm, ConstantForm, Contains, Form, JsonValue, Schema
from lladav.structured.schema.constraints.scalars import smaller, union
from lladav.structured.schema.formulas import Condition, NodeSource
from lladav.structured.schema.json_values import ValueSet, common, identity
from lladav.structured.schema.subschemas import Subschema

MAX_PLACED = 64
"""Items that ``contains`` places at fixed positions."""
MAX_PLACES = 4
"""Positions that are tried for an item of ``contains``."""


@dataclass(frozen=True)
class ItemRules:
    """The schemas of items by position that one subschema gives."""

    subschema: Subschema
    owners: frozenset[Subschema] = frozenset()
    """Enclosing subschemas with ``unevaluatedItems``."""

    @cached_property
    def prefix(self) -> tuple[Subschema, ...]:
        key = "prefixItems" if self.subschema.draft.has("prefixItems") else "items"
        items = self.subschema.get(key)
        return tuple(self.subschema.at(key, n) for n in range(len(items))) if isinstance(items, list) else ()

    @cached_property
    def rest(self) -> Subschema | None:
        """The schema of items after the prefix, if there is one."""
        key = "additionalItems" if isinstance(self.subschema.get("items"), list) else "items"
        return None if self.subschema.get(key) is None else self.subschema.at(key)

    def at(self, index: int) -> Subschema | None:
        return self.prefix[index] if index < len(self.prefix) else self.rest


@dataclass(frozen=True)
class ItemCount:
    """``min_count`` to ``max_count`` items satisfy a condition."""

    condition: Condition
    min_count: int
    max_count: int | None
    owners: frozenset[Subschema] = frozenset()


def _merged_counts(counts: tuple[ItemCount, ...]) -> tuple[ItemCount, ...]:
    """One count per condition."""
    merged: dict[Condition, ItemCount] = {}
    for count in counts:
        other = merged.get(count.condition, count)
        merged[count.condition] = ItemCount(
            count.condition,
            max(count.min_count, other.min_count),
            smaller(count.max_count, other.max_count),
            count.owners & other.owners,
        )
    return tuple(merged.values())


def _has_count(items: list[JsonValue], count: ItemCount, nodes: NodeSource) -> bool:
    counted = [item for item in items if nodes.accepts(nodes.node((count.condition,)), item)]
    others = sum(nodes.accepts(nodes.node((~count.condition,)), item) for item in items)
    few_enough = count.max_count is None or len(items) - others <= count.max_count
    return count.min_count <= len(counted) and few_enough


@dataclass(frozen=True)
class ArrayConstraints:
    """Arrays by length, items and counts of items, or the values of a list."""

    min_items: int = 0
    max_items: int | None = None
    unique: bool = False
    rules: tuple[ItemRules, ...] = ()
    counts: tuple[ItemCount, ...] = ()
    items_at: tuple[tuple[int, Condition], ...] = ()
    """Further conditions on single items."""
    unevaluated: tuple[ItemRules, ...] = ()
    """Subschemas with ``unevaluatedItems``."""
    values: ValueSet | None = None

    @property
    def size(self) -> int:
        return len(self.rules) + len(self.counts) + len(self.items_at)

    def merge(self, other: ArrayConstraints, nodes: NodeSource) -> ArrayConstraints | None:
        del nodes
        merged = ArrayConstraints(
            max(self.min_items, other.min_items),
            smaller(self.max_items, other.max_items),
            self.unique or other.unique,
            union(self.rules, other.rules),
            _merged_counts((*self.counts, *other.counts)),
            union(self.items_at, other.items_at),
            union(self.unevaluated, other.unevaluated),
            common(self.values, other.values),
        )
        too_long = merged.max_items is not None and merged.max_items < merged.min_items
        miscounted = any(
            each.max_count is not None and each.max_count < each.min_count for each in merged.counts
        )
        return None if too_long or miscounted or (merged.values is not None and not merged.values) else merged

    def within(self, owners: frozenset[Subschema]) -> ArrayConstraints:
        return replace(
            self,
            rules=tuple(replace(each, owners=owners) for each in self.rules),
            counts=tuple(replace(each, owners=owners) for each in self.counts),
            unevaluated=tuple(replace(each, owners=owners) for each in self.unevaluated),
        )

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        return (
            isinstance(value, list)
            and (self.values is None or value in self.values)
            and self.min_items <= len(value)
            and (self.max_items is None or len(value) <= self.max_items)
            and not (self.unique and len({identity(item) for item in value}) < len(value))
            and all(
                nodes.accepts(nodes.node(self._conditions(index)), item) for index, item in enumerate(value)
            )
            and all(_has_count(value, count, nodes) for count in self.counts)
        )

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        if self.values is not None:
            rules = replace(self, values=None)
            if values := self.values.where(lambda value: rules.admits(value, nodes)):
                yield ConstantForm(values.values)
            return
        counts = tuple(each for each in self.counts if each.min_count or each.max_count is not None)
        if not counts:
            yield self._form(self._prefix(nodes), nodes)
        elif len(counts) == 1 and not self._prefix_length and not self.unevaluated:
            yield self._counted(counts[0], nodes)
        else:
            yield from self._placed(counts, nodes)

    @property
    def _prefix_length(self) -> int:
        return max(
            (*(len(each.prefix) for each in self.rules), *(index + 1 for index, _ in self.items_at)),
            default=0,
        )

    def _conditions(
        self, index: int, evaluated_by: frozenset[Subschema] = frozenset()
    ) -> tuple[Condition, ...]:
        """Conditions on the item at an index; ``evaluated_by`` are subschemas that evaluate it otherwise."""
        found = [Condition(subschema) for each in self.rules if (subschema := each.at(index))]
        found += [condition for place, condition in self.items_at if place == index]
        for each in self.unevaluated:
            if each.subschema not in evaluated_by and not self._evaluates(each.subschema, index):
                found.append(Condition(each.subschema.at("unevaluatedItems")))
        return tuple(found)

    def _evaluates(self, owner: Subschema, index: int) -> bool:
        inner = any(owner in each.owners and each.subschema is not owner for each in self.unevaluated)
        return inner or any(owner in each.owners and each.at(index) for each in self.rules)

    def _prefix(self, nodes: NodeSource) -> tuple[Schema, ...]:
        return tuple(nodes.node(self._conditions(index)) for index in range(self._prefix_length))

    def _form(self, prefix: tuple[Schema, ...], nodes: NodeSource, min_items: int = 0) -> ArrayForm:
        rest = nodes.node((*self._conditions(self._prefix_length), *self._uncounted))
        return ArrayForm(prefix, rest, max(self.min_items, min_items), self.max_items, self.unique)

    @property
    def _uncounted(self) -> tuple[Condition, ...]:
        """Conditions on items that must not count."""
        return tuple(~each.condition for each in self.counts if each.max_count is not None)

    def _counted(self, count: ItemCount, nodes: NodeSource) -> ArrayForm:
        conditions = self._conditions(0)
        contains = Contains(
            nodes.node((*conditions, count.condition)),
            nodes.node((*conditions, *self._uncounted)),
            count.min_count,
            count.max_count,
        )
        items = nodes.node(conditions)
        return ArrayForm((), items, self.min_items, self.max_items, self.unique, contains)

    def _placed(self, counts: tuple[ItemCount, ...], nodes: NodeSource) -> Iterator[ArrayForm]:
        """Items that count have fixed positions: directly behind the prefix, or one within it."""
        needed = [count for count in counts for _ in range(min(count.min_count, MAX_PLACED + 1))]
        if len(needed) > MAX_PLACED:
            raise SchemaError(
                "#", f"contains more than {MAX_PLACED} items of one kind, which is too many here"
            )
        end = self._prefix_length
        behind = range(end, end + len(needed))
        within = ((index,) for index in range(min(end, MAX_PLACES))) if len(needed) == 1 else ()
        for indices in (behind, *within):
            places = dict(zip(indices, needed, strict=True))
            length = max(end, *(index + 1 for index in places), 0)
            prefix = tuple(self._placed_item(index, places.get(index), nodes) for index in range(length))
            yield self._form(prefix, nodes, max((index + 1 for index in places), default=0))

    def _placed_item(self, index: int, count: ItemCount | None, nodes: NodeSource) -> Schema:
        if count is None:
            return nodes.node((*self._conditions(index), *self._uncounted))
        counts = count.condition.subschema.draft.has("prefixItems")
        conditions = self._conditions(index, count.owners if counts else frozenset())
        others = tuple(each for each in self._uncounted if each != ~count.condition)
        return nodes.node((*conditions, count.condition, *others))
