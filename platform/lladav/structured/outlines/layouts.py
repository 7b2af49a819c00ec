"""The layouts of schemas and the tokens that they take, found when they are asked for.

Schemas may be recursive, so the fewest tokens of a schema are the least fixed point of those of its layouts.
Only schemas on which the result depends are visited: optional properties only when they are offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import RLock

from lladav.structured.budget import Budget, BudgetExceeded
from lladav.structured.errors import SchemaError
from lladav.structured.forms import ArrayForm, ConstantForm, Form, ObjectForm, Schema
from lladav.structured.languages.building import ScalarForm
from lladav.structured.outlines.arrays import ArrayLayout
from lladav.structured.outlines.cost import IMPOSSIBLE, Cost
from lladav.structured.outlines.objects import ObjectLayout
from lladav.structured.outlines.parts import Layout, Lookup
from lladav.structured.outlines.slots import SlotBuilder

NAME_TOKENS = 8
"""Canvas positions of a name that the model writes."""
MAX_TRIED = 4
"""Forms of scalars that are tried one by one if they are not supported together."""
MAX_SCHEMAS = 4096
"""Schemas that the cost of one may depend on."""
MAX_STEPS = 200_000
"""Steps to find the cost of one schema: lookups of the costs of others."""


@dataclass(frozen=True)
class Kinds:
    """What a schema permits: scalars, which have one layout, and objects and arrays, one for each form."""

    scalars: Sequence[ScalarForm] = ()
    scalar: Layout | None = None
    structured: Sequence[Layout] = ()


class Layouts:
    """The layouts of the schemas of one answer. Threads may share them."""

    def __init__(self, slots: SlotBuilder, all_properties: bool) -> None:
        self.slots, self.all_properties = slots, all_properties
        self.name_slots = SlotBuilder(slots.encoder, min(NAME_TOKENS, slots.value_tokens), slots.automata)
        self._lock = RLock()
        self._kinds: dict[Schema, Kinds] = {}
        self._costs: dict[Schema, Cost] = {}
        self._errors: dict[Schema, SchemaError] = {}
        self._unsolved: SchemaError | None = None
        """Why the costs of some schemas are not known."""

    def layouts(self, schema: Schema) -> Sequence[Layout]:
        """The layouts of a schema; empty if none of its values can be guaranteed."""
        kinds = self._kinds_of(schema)
        return kinds.structured if kinds.scalar is None else [kinds.scalar, *kinds.structured]

    def scalars(self, schema: Schema) -> Sequence[ScalarForm]:
        """The forms of the scalars of a schema."""
        return self._kinds_of(schema).scalars

    def structured(self, schema: Schema) -> Sequence[Layout]:
        """The layouts of the objects and arrays of a schema."""
        return self._kinds_of(schema).structured

    def cost(self, schema: Schema) -> Cost:
        """The tokens of a value."""
        with self._lock:
            if schema not in self._costs:
                self._costs |= self._solve(schema)
            return self._costs[schema]

    def error(self, schema: Schema) -> SchemaError:
        """Why no value of a schema can be guaranteed."""
        seen, pending = {schema}, [schema]
        while pending:
            found = pending.pop()
            if found in self._errors:
                return self._errors[found]
            needs = [each for each in self._needs(found) if each not in seen and not self.cost(each).possible]
            pending += reversed(needs)
            seen.update(needs)
        return self._unsolved or SchemaError(schema.path, "has no value that can be guaranteed")

    def _kinds_of(self, schema: Schema) -> Kinds:
        with self._lock:
            if schema not in self._kinds:
                self._kinds[schema] = self._read(schema)
            return self._kinds[schema]

    def _read(self, schema: Schema) -> Kinds:
        try:
            forms = schema.forms
        except SchemaError as error:
            self._errors[schema] = error if error.path else error.at(schema.path)
            return Kinds()
        if not forms:
            self._errors[schema] = SchemaError(schema.path, "permits no value", "impossible_schema")
        scalars, scalar = self._scalar(schema, [each for form in forms for each in _scalar_part(form)])
        return Kinds(scalars, scalar, list(self._structured(schema, forms)))

    def _scalar(
        self, schema: Schema, forms: Sequence[ScalarForm]
    ) -> tuple[Sequence[ScalarForm], Layout | None]:
        """The layout of scalars; if they are not supported together, that of the first ones that are."""
        supported = (form for form in forms[:MAX_TRIED] if self._is_supported(schema, form))
        for each in (forms, supported):
            candidates = list(each)
            try:
                return (candidates, self.slots.scalar(candidates)) if candidates else ((), None)
            except SchemaError as error:
                self._note(schema, error)
        return (), None

    def _is_supported(self, schema: Schema, form: ScalarForm) -> bool:
        try:
            self.slots.scalar([form])
        except SchemaError as error:
            self._note(schema, error)
            return False
        return True

    def _note(self, schema: Schema, error: SchemaError) -> None:
        self._errors.setdefault(schema, error.at(schema.path))

    def _structured(self, schema: Schema, forms: Sequence[Form]) -> Iterator[Layout]:
        """The layouts of the objects and arrays of a schema that are supported."""
        for form in forms:
            try:
                if (layout := self._structured_layout(form)) is not None:
                    yield layout
            except SchemaError as error:
                self._note(schema, error)

    def _structured_layout(self, form: Form) -> Layout | None:
        match form:
            case ObjectForm():
                return ObjectLayout(form, self)
            case ArrayForm():
                return ArrayLayout(form, self)
            case ConstantForm():
                values = tuple(value for value in form.values if isinstance(value, list | dict))
                return self.slots.scalar([ConstantForm(values)]) if values else None
            case _:
                return None

    def _needs(self, schema: Schema) -> Iterator[Schema]:
        return chain.from_iterable(layout.needs() for layout in self.layouts(schema))

    def _solve(self, root: Schema) -> Mapping[Schema, Cost]:
        """The costs of a schema and of all on which it depends; impossible if there are too many."""
        order = self._postorder(root)
        costs = dict.fromkeys(order, IMPOSSIBLE)

        def lookup(schema: Schema) -> Cost:
            return costs[schema] if schema in costs else self._costs.get(schema, IMPOSSIBLE)

        budget = Budget(
            MAX_STEPS if len(order) <= MAX_SCHEMAS else 0, "is too large", self.slots.automata.budget
        )
        work = sum(1 + len(list(self._needs(schema))) for schema in order)
        changed = True
        try:
            while changed:
                budget.spend(work)
                changed = self._improve(costs, lookup)
        except BudgetExceeded as error:
            self._unsolved = self._unsolved or error.at(root.path)
            return dict.fromkeys(order, IMPOSSIBLE)
        return costs

    def _improve(self, costs: dict[Schema, Cost], lookup: Lookup) -> bool:
        """Update costs by the costs of others; whether any changed."""
        changed = False
        for schema, known in costs.items():
            layouts = self.layouts(schema)
            costs[schema] = min((each.cost(lookup) for each in layouts), key=_minimum, default=IMPOSSIBLE)
            changed |= costs[schema] != known
        return changed

    def _postorder(self, root: Schema) -> list[Schema]:
        """The schemas on which a schema depends, before those that depend on them where possible."""
        order, seen, path = list[Schema](), {root}, [(root, self._needs(root))]
        while path and len(seen) <= MAX_SCHEMAS:
            schema, needs = path[-1]
            following = next((each for each in needs if each not in seen and each not in self._costs), None)
            if following is None:
                order.append(schema)
                path.pop()
            else:
                seen.add(following)
                path.append((following, self._needs(following)))
        return [*order, *(schema for schema, _ in reversed(path))]


def _minimum(cost: Cost) -> float:
    return cost.minimum


def _scalar_part(form: Form) -> Iterator[ScalarForm]:
    """A form without objects and arrays."""
    match form:
        case ObjectForm() | ArrayForm():
            return
        case ConstantForm():
            values = tuple(value for value in form.values if not isinstance(value, list | dict))
            if values:
                yield ConstantForm(values)
        case _:
            yield form
