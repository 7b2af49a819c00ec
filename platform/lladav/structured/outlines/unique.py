"""Scalars that must differ from those before them: items of unique arrays, generated names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lladav.structured.errors import SchemaError
from lladav.structured.languages.building import ScalarForm
from lladav.structured.outlines.cost import IMPOSSIBLE, Cost
from lladav.structured.outlines.distinct import (
    MAX_DISTINCT,
    Distinct,
    key_of,
    shortest_values,
    value_of,
    without,
)
from lladav.structured.outlines.parts import Collection, Known, Part, Scalar
from lladav.structured.outlines.slots import SlotBuilder, SlotLayout

FEWEST_SEARCHED = 16
"""Distinct values that are searched for where fewer are needed."""


class UniqueScalars:
    """Distinct scalars of some forms."""

    def __init__(self, forms: Sequence[ScalarForm], slots: SlotBuilder, needed: int) -> None:
        """``needed`` are the values that a collection has at least."""
        self._forms, self._slots, self._needed = forms, slots, needed

    def cost(self, written: int) -> Cost:
        """The cost of a value that differs from ``written`` others, whatever they are; one that is needed."""
        layout = self._layout
        if layout is None or not written:
            return IMPOSSIBLE if layout is None else layout.cost()
        if written >= len(self._shortest):
            return IMPOSSIBLE
        fewest = self._shortest[written].tokens
        return Cost(fewest, max(fewest, layout.length.wanted)) + layout.quotes_cost

    def parts(self, collection: Collection, known: Known) -> tuple[Part, ...] | None:
        """The parts of a value that differs from all in the collection; None if there is no other."""
        values = known.get(collection, ())
        layout = self._without(values) if values else self._layout
        return None if layout is None else layout.recorded(collection)

    @cached_property
    def _layout(self) -> SlotLayout | None:
        return self._build(self._forms)

    def _build(self, forms: Sequence[ScalarForm], fixed_quotes: bool = True) -> SlotLayout | None:
        try:
            return self._slots.slot(forms, fixed_quotes) if forms else None
        except SchemaError:
            return None

    def _without(self, values: Sequence[Scalar]) -> SlotLayout | None:
        """The layout without some values. If that is too complex or too long, one of the shortest others."""
        if (layout := self._layout) is None or not (remaining := without(self._forms, values)):
            return None
        others = self._build(remaining, bool(layout.quotes))
        is_promised = len(values) < self._needed
        if others is None or (is_promised and others.cost().minimum > self.cost(len(values)).minimum):
            return self._other(layout, values)
        return others

    def _other(self, layout: SlotLayout, values: Sequence[Scalar]) -> SlotLayout | None:
        """One of the shortest values besides some; None if all of these are written."""
        keys, quoted = set(map(key_of, values)), bool(layout.quotes)
        texts = (each.text for each in self._shortest)
        other = next((text for text in texts if key_of(value_of(text, quoted)) not in keys), None)
        return None if other is None else self._slots.texts([other], layout.quotes)

    @cached_property
    def _shortest(self) -> list[Distinct]:
        """The shortest distinct values: as many as are needed, or all that can be found."""
        count = min(MAX_DISTINCT, max(FEWEST_SEARCHED, self._needed))
        assert self._layout is not None
        return shortest_values(self._layout, self._slots.encoder, count, self._slots.automata.budget)
