"""The layouts of schemas and the tokens that they take, found when they are asked for.

Schemas may be recursive, so the fewest tokens of a schema are the least fixed point of those of its layouts.
Only schemas on which the result depends are visited: optional properties only when they are offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import RLock

from lladav.structured.errors import SchemaError
from lladav.structured.forms import ArrayForm, ConstantForm, Form, ObjectForm, Schema
from lladav.structured.languages.building import ScalarForm
from lladav.structured.outlines.arrays import ArrayLayout
from lladav.structured.outlines.cost import IMPOSSIBLE, Cost
from lladav.structured.outlines.objects import ObjectLayout
from lladav.structured.outlines.parts import Layout
from lladav.structured.outlines.slots import SlotBuilder

NAME_TOKENS = 8
"""Canvas positions of a name that the model writes."""
MAX_TRIED = 4
"""Forms of scalars that are tried one by one if they are not supported together."""
MAX_SCHEMAS = 4096
"""Schemas that the cost of one may depend on."""
MAX_WORK = 200_000
"""Costs that are looked up to find that of one schema."""


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
        self.name_slots = SlotBuilder(slots.encoder, min(NAME_TOKENS, slots.value_tokens))
        self._lock = RLock()
        self._kinds: dict[Schema, Kinds] = {}
        self._costs: dict[Schema, Cost] = {}
        self._errors: dict[Schema, SchemaError] = {}

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
        return SchemaError(schema.path, "has no value that can be guaranteed")

    def _kinds_of(self, schema: Schema) -> Kinds:
        with self._lock:
            if schema not in self._kinds:
                self._kinds[schema] = self._read(schema)
            return self._kinds[schema]

    def _read(self, schema: Schema) -> Kinds:
        try:
            forms = schema.forms
        except SchemaError as error:
            self._errors[schema] = error
            return Kinds()
        if not forms:
            self._errors[schema] = SchemaError(schema.path, "permits no value", "impossible_schema")
        scalars, scalar = self._scalar(schema, [each for form in forms for each in _scalar_part(form)])
        return Kinds(scalars, scalar, [each for form in forms for each in self._structured(form)])

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
        self._errors.setdefault(schema, SchemaError(schema.path, error.reason, error.code))

    def _structured(self, form: Form) -> Iterator[Layout]:
        match form:
            case ObjectForm():
                yield ObjectLayout(form, self)
            case ArrayForm():
                yield ArrayLayout(form, self)
            case ConstantForm():
                values = tuple(value for value in form.values if isinstance(value, list | dict))
                if values:
                    yield self.slots.scalar([ConstantForm(values)])
            case _:
                pass

    def _needs(self, schema: Schema) -> Iterator[Schema]:
        return chain.from_iterable(layout.needs() for layout in self.layouts(schema))

    def _solve(self, root: Schema) -> Mapping[Schema, Cost]:
        """The costs of a schema and of all on which it depends; impossible if there are too many."""
        order = self._postorder(root)
        costs = dict.fromkeys(order, IMPOSSIBLE)

        def lookup(schema: Schema) -> Cost:
            return costs[schema] if schema in costs else self._costs.get(schema, IMPOSSIBLE)

        work = sum(1 + len(list(self._needs(schema))) for schema in order)
        for _ in range(0, MAX_WORK if len(order) <= MAX_SCHEMAS else 0, work):
            changed = False
            for schema in order:
                found = min(
                    (each.cost(lookup) for each in self.layouts(schema)), key=_minimum, default=IMPOSSIBLE
                )
                changed |= found != costs[schema]
                costs[schema] = found
            if not changed:
                return costs
        self._note(root, SchemaError(root.path, "is too large"))
        return dict.fromkeys(order, IMPOSSIBLE)

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
