"""Calls of functions: the model chooses a function, writes its arguments, then ends or calls again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lladav.inputs.tool_text import BETWEEN_CALLS, CALL_END, call_start
from lladav.structured.forms import Schema
from lladav.structured.outlines.cost import Cost, total
from lladav.structured.outlines.layouts import Layouts
from lladav.structured.outlines.longest import Longest
from lladav.structured.outlines.parts import Alternative, Collection, Known, Part
from lladav.structured.outlines.values import ValuePart


@dataclass(frozen=True)
class Function:
    """A function that may be called: its name and the schema of its arguments."""

    name: str
    arguments: Schema


class FunctionCalls:
    """The calls of an answer: one, or in ``parallel`` as many as the model wants and there is room for."""

    def __init__(self, functions: Sequence[Function], layouts: Layouts, parallel: bool) -> None:
        text, self._layouts, self.parallel = layouts.slots.text, layouts, parallel
        self._arguments = [function.arguments for function in functions]
        self._first = [text(call_start(function.name)) for function in functions]
        self._later = [text(CALL_END + BETWEEN_CALLS + call_start(function.name)) for function in functions]
        self.end = text(CALL_END)

    def __len__(self) -> int:
        return len(self._arguments)

    @property
    def minimum(self) -> Cost:
        """The cost of the shortest call."""
        costs = [total(part.cost for part in parts) for parts in self.calls(first=True)]
        return min(costs, key=lambda cost: cost.minimum)

    @property
    def longest(self) -> float:
        """The most tokens of one call."""
        longest = Longest(self._layouts)
        calls = zip(self._first, self._arguments, strict=True)
        return self.end.cost.wanted + max(start.cost.wanted + longest.of(schema) for start, schema in calls)

    def calls(self, first: bool) -> list[tuple[Part, ...]]:
        """The parts of a call of each function, or of one more call, which ends the call before it."""
        starts = self._first if first else self._later
        end = CallPart(self, first=False) if self.parallel else self.end
        calls = zip(starts, self._arguments, strict=True)
        return [(start, ValuePart(schema, self._layouts), end) for start, schema in calls]


@dataclass(frozen=True, slots=True)
class CallOrValuePart:
    """Calls, or a value of a schema instead."""

    functions: FunctionCalls
    value: ValuePart

    @property
    def cost(self) -> Cost:
        return min(self.functions.minimum, self.value.cost, key=lambda cost: cost.minimum)

    @property
    def collection(self) -> Collection | None:
        return None

    @property
    def width(self) -> int:
        return len(self.functions) + self.value.width

    @property
    def decided(self) -> bool:
        return False

    def alternatives(self, known: Known) -> list[Alternative]:  # noqa: ARG002 - the protocol's signature
        return [Alternative((CallPart(self.functions),)), Alternative((self.value,))]


@dataclass(frozen=True, slots=True)
class CallPart:
    """The first call of an answer, or what follows the arguments of a call: its end, or one more call."""

    functions: FunctionCalls
    first: bool = True

    @property
    def cost(self) -> Cost:
        return self.functions.minimum if self.first else self.functions.end.cost

    @property
    def collection(self) -> Collection | None:
        return None

    @property
    def width(self) -> int:
        return len(self.functions)

    @property
    def decided(self) -> bool:
        return False

    def alternatives(self, known: Known) -> list[Alternative]:  # noqa: ARG002 - the protocol's signature
        calls = [Alternative(parts, extra=not self.first) for parts in self.functions.calls(self.first)]
        return calls if self.first else [Alternative((self.functions.end,)), *calls]
