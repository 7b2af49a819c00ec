"""What the layouts of objects and arrays need to know about the values in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lladav.structured.forms import Schema
from lladav.structured.languages.building import ScalarForm
from lladav.structured.outlines.cost import Cost
from lladav.structured.outlines.parts import Alternative, Collection, Known, Layout
from lladav.structured.outlines.slots import SlotBuilder


class Values(Protocol):
    """The layouts of schemas and their costs."""

    @property
    def slots(self) -> SlotBuilder: ...

    @property
    def name_slots(self) -> SlotBuilder:
        """Builds slots of names."""
        ...

    @property
    def all_properties(self) -> bool:
        """Whether optional properties are written without asking the model."""
        ...

    def layouts(self, schema: Schema) -> Sequence[Layout]:
        """The layouts of a schema; empty if none of its values can be guaranteed."""
        ...

    def scalars(self, schema: Schema) -> Sequence[ScalarForm]:
        """The forms of the scalars of a schema."""
        ...

    def structured(self, schema: Schema) -> Sequence[Layout]:
        """The layouts of its objects and arrays."""
        ...

    def cost(self, schema: Schema) -> Cost:
        """The tokens of a value."""
        ...


@dataclass(frozen=True, slots=True)
class ValuePart:
    """A value of a schema."""

    schema: Schema
    values: Values
    inside: frozenset[Schema] = frozenset()
    """Schemas of the values around it; empty unless all properties are written."""

    @property
    def cost(self) -> Cost:
        return self.values.cost(self.schema)

    @property
    def collection(self) -> Collection | None:
        return None

    @property
    def width(self) -> int:
        return len(self.values.layouts(self.schema))

    @property
    def decided(self) -> bool:
        return False

    def alternatives(self, known: Known) -> list[Alternative]:  # noqa: ARG002 - the protocol's signature
        inside = self.inside | {self.schema} if self.values.all_properties else self.inside
        layouts = self.values.layouts(self.schema)
        return [Alternative(layout.parts(inside)) for layout in layouts if self._possible(layout)]

    def _possible(self, layout: Layout) -> bool:
        return layout.cost(self.values.cost).possible
