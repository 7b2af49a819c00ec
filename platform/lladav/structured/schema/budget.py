"""Bounds the work on a schema by counting steps, so that a result does not depend on the machine."""

from __future__ import annotations

from lladav.structured.errors import SchemaError


class Budget:
    """Steps that may be taken, also counted by a larger budget."""

    def __init__(self, steps: int, parent: Budget | None = None) -> None:
        self._steps, self._parent = steps, parent

    @property
    def is_spent(self) -> bool:
        return self._steps <= 0 or bool(self._parent and self._parent.is_spent)

    def spend(self, steps: int = 1) -> None:
        """Count steps; raises ``SchemaError`` if there were too many."""
        if self.is_spent:
            raise SchemaError("#", "has too many combinations of alternatives; make the schema smaller")
        self._steps -= steps
        if self._parent:
            self._parent.spend(steps)
