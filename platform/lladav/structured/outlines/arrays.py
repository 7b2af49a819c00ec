"""Arrays: a choice between one more item and the end, where the number of items is open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lladav.structured.forms import ArrayForm, Schema
from lladav.structured.outlines.cost import IMPOSSIBLE, Cost, total
from lladav.structured.outlines.distinct import MAX_DISTINCT
from lladav.structured.outlines.parts import Alternative, Collection, Known, Lookup, Part
from lladav.structured.outlines.unique import UniqueScalars
from lladav.structured.outlines.values import ValuePart, Values


@dataclass(frozen=True, slots=True)
class ArrayState:
    """How far an array is written."""

    index: int = 0
    """Items that are written."""
    structured: bool = False
    """Whether an item of a unique array is an object or array. There is only one: nothing guarantees in
    advance that two of them differ."""


@dataclass(frozen=True)
class ItemRun:
    """Consecutive items of one schema."""

    schema: Schema
    start: int
    end: float

    def count(self, start: int, end: float) -> float:
        """How many of its items lie in a range."""
        return max(0, min(self.end, end) - max(self.start, start))


class ArrayLayout:
    """An array of a form."""

    def __init__(self, form: ArrayForm, values: Values) -> None:
        self.form, self.values, self.unique = form, values, form.unique
        self.min_items = max(form.min_items, form.contains.min_count if form.contains else 0)
        self.scalars = lru_cache(maxsize=None)(self._scalars)
        text = values.slots.text
        self.first, self.later, self.end, self.empty = text("["), text(", "), text("]"), text("[]")

    @cached_property
    def runs(self) -> list[ItemRun]:
        """The items in order. Items may be arrays of this form, so they are found when they are asked for."""
        return list(_runs(self.form, self.values))

    @cached_property
    def max_items(self) -> float:
        return min(_bound(self.form.max_items), self.runs[-1].end if self.runs else 0)

    def needs(self) -> Iterable[Schema]:
        return (run.schema for run in self.runs if run.count(0, self.min_items))

    def cost(self, lookup: Lookup, state: ArrayState = ArrayState()) -> Cost:
        """The cost of what follows in a state."""
        missing = self.min_items - state.index
        if missing > 0 and self.min_items > self.max_items:
            return IMPOSSIBLE
        end = self.end if state.index or missing > 0 else self.empty
        if missing <= 0:
            return end.cost
        items = self._unique_items(lookup, state) if self.unique else self._items(lookup, state.index)
        return items + self.later.cost * missing + end.cost

    def longest(self, lookup: Callable[[Schema], float]) -> float:
        items = [
            (lookup(run.schema) + self.later.cost.wanted, run.count(0, self.max_items)) for run in self.runs
        ]
        return self.empty.cost.wanted + sum(tokens * count for tokens, count in items if count)

    def parts(self, inside: frozenset[Schema]) -> tuple[Part, ...]:
        return (ArrayPart(self, ArrayState(), inside, Collection()),)

    def schema_at(self, index: int) -> Schema:
        """The schema of an item before the last possible one."""
        return next(run.schema for run in self.runs if index < run.end)

    def structured_cost(self, lookup: Lookup, schema: Schema) -> Cost:
        """The cost of an object or array."""
        costs = (layout.cost(lookup) for layout in self.values.structured(schema))
        return min(costs, key=lambda cost: cost.minimum, default=IMPOSSIBLE)

    def _scalars(self, schema: Schema) -> UniqueScalars:
        return UniqueScalars(self.values.scalars(schema), self.values.slots, self.min_items)

    def _items(self, lookup: Lookup, index: int) -> Cost:
        counts = ((run.schema, run.count(index, self.min_items)) for run in self.runs)
        return total(lookup(schema) * count for schema, count in counts if count)

    def _unique_items(self, lookup: Lookup, state: ArrayState) -> Cost:
        """Scalars that differ whatever they are, and one object or array where no scalar is possible."""
        if self.min_items > MAX_DISTINCT:
            return IMPOSSIBLE
        items = [(index, self.schema_at(index)) for index in range(state.index, self.min_items)]
        costs = [self.scalars(schema).cost(index) for index, schema in items]
        others = [schema for (_, schema), cost in zip(items, costs, strict=True) if not cost.possible]
        if len(others) > (not state.structured):
            return IMPOSSIBLE
        scalars = total(cost for cost in costs if cost.possible)
        return scalars + total(self.structured_cost(lookup, schema) for schema in others)


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """The rest of an array."""

    layout: ArrayLayout
    state: ArrayState
    inside: frozenset[Schema]
    items: Collection

    @property
    def cost(self) -> Cost:
        return self.layout.cost(self.layout.values.cost, self.state)

    @property
    def collection(self) -> Collection | None:
        return self.items if self.layout.unique else None

    @property
    def width(self) -> int:
        return 2

    @property
    def decided(self) -> bool:
        return False

    def alternatives(self, known: Known) -> Sequence[Alternative]:
        """One more item, and the end."""
        layout, index = self.layout, self.state.index
        items = self._items(layout.schema_at(index), known) if index < layout.max_items else ()
        ends = index >= layout.min_items
        result = [Alternative(parts, extra=ends) for parts in items]
        return [*result, Alternative((layout.end if index else layout.empty,))] if ends else result

    def _items(self, schema: Schema, known: Known) -> Iterator[tuple[Part, ...]]:
        layout, state = self.layout, self.state
        separator = layout.later if state.index else layout.first
        rest = self._rest(structured=state.structured)
        if not layout.unique:
            yield separator, ValuePart(schema, layout.values, self.inside), rest
            return
        if (scalar := layout.scalars(schema).parts(self.items, known)) is not None:
            yield separator, *scalar, rest
        if not state.structured:
            for each in layout.values.structured(schema):
                yield separator, *each.parts(self.inside), self._rest(structured=True)

    def _rest(self, structured: bool) -> ArrayPart:
        state = ArrayState(self.state.index + 1, structured)
        return ArrayPart(self.layout, state, self.inside, self.items)


def _runs(form: ArrayForm, values: Values) -> Iterator[ItemRun]:
    """The schemas of items in order, up to the last one that is possible."""
    if (contains := form.contains) is None:
        for index, schema in enumerate(form.prefix):
            yield ItemRun(schema, index, index + 1)
        if form.items is not None:
            yield ItemRun(form.items, len(form.prefix), math.inf)
        return
    if contains.min_count:
        yield ItemRun(contains.item, 0, contains.min_count)
    if values.layouts(contains.other):
        yield ItemRun(contains.other, contains.min_count, math.inf)
    elif contains.max_count is None or contains.max_count > contains.min_count:
        yield ItemRun(contains.item, contains.min_count, _bound(contains.max_count))


def _bound(count: int | None) -> float:
    return math.inf if count is None else count
