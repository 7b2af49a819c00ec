"""The most canvas positions that a value takes."""

from __future__ import annotations

import math

from lladav.structured.forms import Schema
from lladav.structured.outlines.layouts import Layouts

MAX_DEPTH = 32
"""Levels of values; deeper ones count as unbounded."""
MAX_SCHEMAS = 512
"""Schemas that are visited; further ones count as unbounded."""


class Longest:
    """Finds the most positions of values.

    All schemas that an answer may contain are visited, within limits, so their layouts exist before decoding.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._depth = 0
        self._found: dict[Schema, float] = {}

    def of(self, schema: Schema) -> float:
        """The most positions of a value; infinite if there is no bound, 0 if there is no value."""
        if schema in self._found:
            return self._found[schema]
        if self._depth == MAX_DEPTH or len(self._found) == MAX_SCHEMAS:
            return math.inf
        self._found[schema] = math.inf  # while it is visited: a recursive schema has no bound
        self._depth += 1
        possible = self._layouts.cost(schema).possible
        layouts = self._layouts.layouts(schema) if possible else ()
        self._found[schema] = max([layout.longest(self.of) for layout in layouts], default=0)
        self._depth -= 1
        return self._found[schema]
