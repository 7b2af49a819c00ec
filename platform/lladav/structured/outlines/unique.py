"""Scalars that must differ from those before them: items of unique arrays, generated names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock

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

FIRST_SEARCH = 16
"""Distinct values that the first search looks for; each further one looks for twice as many."""


class UniqueScalars:
    """Distinct scalars of some forms."""

    def __init__(self, forms: Sequence[ScalarForm], slots: SlotBuilder) -> None:
        self._forms, self._slots = forms, slots
        self._lock = Lock()
        self._searched = 0
        self._shortest: list[Distinct] = []

    def cost(self, written: int) -> Cost:
        """The cost of a value that differs from ``written`` others, whatever they are."""
        layout = self._layout
        if layout is None or not written:
            return IMPOSSIBLE if layout is None else layout.cost()
        shortest = self._search(written + 1)
        if written >= len(shortest):
            return IMPOSSIBLE
        fewest = shortest[written].tokens
        return Cost(fewest, max(fewest, layout.length.wanted)) + layout.quotes_cost

    def parts(self, collection: Collection, known: Known) -> tuple[Part, ...] | None:
        """The parts of a value that differs from all in the collection; None if there is no other."""
        values = known.get(collection, ())
        layout = self._without(values) if values else self._layout
        return None if layout is None else layout.recorded(collection)

    @cached_property
    def _layout(self) -> SlotLayout | None:
        return self._build(self._forms)

    def _build(self, forms: Sequence[ScalarForm]) -> SlotLayout | None:
        try:
            return self._slots.slot(forms) if forms else None
        except SchemaError:
            return None

    def _without(self, values: Sequence[Scalar]) -> SlotLayout | None:
        """The layout without some values; one of the shortest others if that is too complex."""
        remaining = without(self._forms, values)
        return self._build(remaining) or (self._other(values) if remaining else None)

    def _other(self, values: Sequence[Scalar]) -> SlotLayout | None:
        """One of the shortest values besides some, where excluding these is too complex."""
        if (layout := self._layout) is None:
            return None
        keys, quoted = set(map(key_of, values)), bool(layout.quotes)
        shortest = (each.text for each in self._search(len(values) + 1))
        others = [text for text in shortest if key_of(value_of(text, quoted)) not in keys]
        return self._slots.texts(others[:1], layout.quotes) if others else None

    def _search(self, count: int) -> list[Distinct]:
        """The shortest distinct values: ``count`` or more, or all that can be found."""
        with self._lock:
            if self._layout is not None and self._searched < count <= MAX_DISTINCT:
                self._searched = min(MAX_DISTINCT, max(count, FIRST_SEARCH, 2 * self._searched))
                self._shortest = shortest_values(self._layout, self._slots.encoder, self._searched)
            return self._shortest
