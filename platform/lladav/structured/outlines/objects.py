"""Objects: listed properties in their order, then others whose names the model writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from lladav.structured.forms import KeyRule, ObjectForm, Schema
from lladav.structured.languages.building import json_text
from lladav.structured.outlines.cost import IMPOSSIBLE, NOTHING, Cost, total
from lladav.structured.outlines.distinct import MAX_DISTINCT
from lladav.structured.outlines.parts import Alternative, Collection, Known, Lookup, Part, Text
from lladav.structured.outlines.unique import UniqueScalars
from lladav.structured.outlines.values import ValuePart, Values

MAX_OFFERED = 256
"""Optional properties of one choice. Further ones are offered when one of these is written."""


@dataclass(frozen=True)
class Property:
    """A listed property."""

    schema: Schema
    required: bool
    first: Text
    """The text before its value if it is the first property of the object."""
    later: Text

    @property
    def name_cost(self) -> Cost:
        return max(self.first.cost, self.later.cost, key=lambda cost: cost.minimum)

    def cost(self, lookup: Lookup) -> Cost:
        return self.name_cost + lookup(self.schema)


class ObjectLayout:
    """An object of a form."""

    def __init__(self, form: ObjectForm, values: Values) -> None:
        self.values, self.min_properties, self.max_properties = (
            values,
            form.min_properties,
            form.max_properties,
        )
        text = values.slots.text
        self.properties = [
            Property(
                schema, name in form.required, text(f"{{{json_text(name)}: "), text(f", {json_text(name)}: ")
            )
            for name, schema in form.properties.items()
        ]
        self.keys = [GeneratedKeys(rule, values, self.min_properties) for rule in form.rules]
        self.end, self.empty = text("}"), text("{}")

    def needs(self) -> Iterable[Schema]:
        few = self.required_counts[0] >= self.min_properties
        yield from (each.schema for each in self.properties if each.required or not few)
        yield from (keys.schema for keys in self.keys if not few)

    def cost(self, lookup: Lookup) -> Cost:
        required = total(each.cost(lookup) for each in self.properties if each.required)
        return self._complete(lookup, required, ObjectState())

    def cost_from(self, state: ObjectState) -> Cost:
        """The cost of what follows in a state, when the costs of all values are known."""
        return self._complete(self.values.cost, self._required_from[state.position], state)

    def longest(self, lookup: Callable[[Schema], float]) -> float:
        listed = [each.name_cost.wanted + lookup(each.schema) for each in self.properties]
        generated = sum(keys.longest(lookup) for keys in self.keys)
        return sum(listed) + generated + self.empty.cost.wanted

    def parts(self, inside: frozenset[Schema]) -> tuple[Part, ...]:
        return (ObjectPart(self, ObjectState(), inside, Collection()),)

    @cached_property
    def _required_from(self) -> list[Cost]:
        """The cost of the required properties from each position on."""
        costs = [each.cost(self.values.cost) if each.required else NOTHING for each in self.properties]
        return list(accumulate(reversed(costs), initial=NOTHING))[::-1]

    @cached_property
    def required_counts(self) -> list[int]:
        """The number of required properties from each position on."""
        counts = [int(each.required) for each in self.properties]
        return list(accumulate(reversed(counts), initial=0))[::-1]

    @cached_property
    def widths(self) -> list[int]:
        """The number of alternatives at each position: optional properties, and what follows them."""
        widths = [len(self.keys) + 1]
        for each in reversed(self.properties):
            widths.append(1 if each.required else widths[-1] + 1)
        return widths[::-1]

    def missing(self, state: ObjectState) -> int:
        """How many properties besides the required ones still have to be written."""
        return max(0, self.min_properties - state.written - self.required_counts[state.position])

    def _complete(self, lookup: Lookup, required: Cost, state: ObjectState) -> Cost:
        written, extra = state.written + self.required_counts[state.position], self.missing(state)
        if self.max_properties is not None and written + extra > self.max_properties:
            return IMPOSSIBLE
        more = self._extra(lookup, state, extra) if extra else NOTHING
        return required + more + (self.end if state.written or written or extra else self.empty).cost

    def _extra(self, lookup: Lookup, state: ObjectState, count: int) -> Cost:
        """The cost of the cheapest properties that are not required."""
        listed = [each.cost(lookup) for each in self.properties[state.position :] if not each.required]
        cheapest = sorted((cost for cost in listed if cost.possible), key=lambda cost: cost.minimum)[:count]
        missing = count - len(cheapest)
        return total(cheapest) + self._generated(lookup, state.generated, missing)

    def _generated(self, lookup: Lookup, written: int, count: int) -> Cost:
        """The cost of some properties by one rule, when some have been written."""
        if not count:
            return NOTHING
        costs = [keys.cost(lookup, written, count) for keys in self.keys]
        return min(costs, key=lambda cost: cost.minimum, default=IMPOSSIBLE)


@dataclass(frozen=True, slots=True)
class ObjectState:
    """How far an object is written."""

    position: int = 0
    """Listed properties that are written or skipped."""
    written: int = 0
    generated: int = 0
    """Written properties that are not listed."""


class GeneratedKeys:
    """Properties by a rule: the model writes their names."""

    def __init__(self, rule: KeyRule, values: Values, needed: int) -> None:
        """``needed`` are the properties that an object has at least."""
        self.schema = rule.value
        slots = values.slots
        self._first, self._later, self._colon = slots.text("{"), slots.text(", "), slots.text(": ")
        self._names = UniqueScalars([rule.key], values.name_slots, needed)

    def cost(self, lookup: Lookup, written: int, count: int) -> Cost:
        """The cost of some properties, when some have been written by any rule."""
        if count > MAX_DISTINCT:
            return IMPOSSIBLE
        names = total(self._names.cost(number) for number in range(written, written + count))
        return names + (lookup(self.schema) + self._later.cost + self._colon.cost) * count

    def longest(self, lookup: Callable[[Schema], float]) -> float:
        """The most tokens of all properties by this rule: infinite unless there is none."""
        possible = self._names.cost(0).possible and lookup(self.schema)
        return math.inf if possible else 0

    def parts(self, first: bool, collection: Collection, known: Known) -> tuple[Part, ...] | None:
        """The parts before the value of one more property; None if there is no other name."""
        name = self._names.parts(collection, known)
        return None if name is None else (self._first if first else self._later, *name, self._colon)


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """The rest of an object."""

    layout: ObjectLayout
    state: ObjectState
    inside: frozenset[Schema]
    names: Collection

    @property
    def cost(self) -> Cost:
        return self.layout.cost_from(self.state)

    @property
    def collection(self) -> Collection | None:
        """Names only matter where the model may write one."""
        listed = self.state.position < len(self.layout.properties)
        return None if listed or not self.layout.keys else self.names

    @property
    def width(self) -> int:
        return 1 if self._writes_all else self.layout.widths[self.state.position]

    @property
    def decided(self) -> bool:
        return self._writes_all and not self._next.required and self._next.schema not in self.inside

    def alternatives(self, known: Known) -> Sequence[Alternative]:
        if self._writes_all:
            return list(self._write_or_skip())
        return [*self._listed(), *self._unlisted(known)]

    @property
    def _writes_all(self) -> bool:
        return self.layout.values.all_properties and self.state.position < len(self.layout.properties)

    @property
    def _next(self) -> Property:
        return self.layout.properties[self.state.position]

    def _write_or_skip(self) -> Iterator[Alternative]:
        """The next property or, if it is optional, what follows it."""
        yield self._property(self.state.position)
        if not self._next.required:
            yield Alternative((self._at(ObjectState(self.state.position + 1, self.state.written, 0)),))

    def _listed(self) -> Iterator[Alternative]:
        """The next optional properties, and the next required one if there is one."""
        position, all_offered = self.state.position, self.layout.missing(self.state) > 0
        for index, each in enumerate(self.layout.properties[position:]):
            if each.required or all_offered or index < MAX_OFFERED:
                yield self._property(position + index)
            if each.required:
                return

    def _property(self, position: int) -> Alternative:
        written = self.layout.properties[position]
        value = ValuePart(written.schema, self.layout.values, self.inside)
        rest = self._at(ObjectState(position + 1, self.state.written + 1, 0))
        text = written.later if self.state.written else written.first
        return Alternative((text, value, rest), extra=not written.required)

    def _unlisted(self, known: Known) -> Iterator[Alternative]:
        """One more property by each rule, and the end; nothing before the last required property."""
        layout, state = self.layout, self.state
        if layout.required_counts[state.position]:
            return
        end = ObjectState(len(layout.properties), state.written + 1, state.generated + 1)
        for keys in layout.keys:
            parts = keys.parts(not state.written, self.names, known)
            if parts is not None:
                value = ValuePart(keys.schema, layout.values, self.inside)
                yield Alternative((*parts, value, self._at(end)), extra=True)
        if state.written >= layout.min_properties:
            yield Alternative((layout.end if state.written else layout.empty,))

    def _at(self, state: ObjectState) -> ObjectPart:
        return ObjectPart(self.layout, state, self.inside, self.names)
