"""Parts of an answer that remain to be written, and the stack that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

from lladav.structured.forms import Schema
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.outlines.cost import NOTHING, Cost

Lookup: TypeAlias = Callable[[Schema], Cost]


class Collection:
    """An array or object that is being written, whose earlier items or keys limit the later ones."""


Scalar: TypeAlias = str | Fraction | bool | None
"""A value of a slot; numbers are exact."""
Known: TypeAlias = Mapping[Collection, tuple[Scalar, ...]]
"""The items or keys that collections already have."""


@dataclass(frozen=True, slots=True)
class Text:
    """Fixed text."""

    text: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class SlotPart:
    """A slot. Its value is recorded in ``collection``, if there is one."""

    automaton: TokenAutomaton
    cost: Cost
    quoted: bool = False
    """Whether quotation marks stand around the slot."""
    collection: Collection | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of several continuations."""

    parts: tuple[Part, ...]
    extra: bool = False
    """Whether it adds a value that the answer can do without."""


class OpenPart(Protocol):
    """A part that is written in one of several ways."""

    @property
    def cost(self) -> Cost: ...

    @property
    def collection(self) -> Collection | None:
        """The collection whose values have to be known first."""
        ...

    @property
    def width(self) -> int:
        """About how many alternatives there are."""
        ...

    @property
    def decided(self) -> bool:
        """Whether the first alternative that fits is taken, and the model is not asked."""
        ...

    def alternatives(self, known: Known) -> Sequence[Alternative]:
        """The continuations; at least one does not cost more than this part."""
        ...


Part: TypeAlias = "Text | SlotPart | OpenPart"


class Layout(Protocol):
    """A form, prepared for writing."""

    def needs(self) -> Iterable[Schema]:
        """Schemas on which the cost depends."""
        ...

    def cost(self, lookup: Lookup) -> Cost:
        """The cost, given the costs of other schemas."""
        ...

    def longest(self, lookup: Callable[[Schema], float]) -> float:
        """The most tokens, given those of other schemas; looks up every schema that a value may contain."""
        ...

    def parts(self, inside: frozenset[Schema]) -> tuple[Part, ...]:
        """The parts of a value; ``inside`` are the schemas of the values around it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The parts that remain, the next one on top."""

    part: Part
    rest: Stack | None
    cost: Cost
    """Of all parts together."""


def push(parts: Sequence[Part], stack: Stack | None) -> Stack | None:
    """A stack with parts on top, the first one uppermost."""
    for part in reversed(parts):
        stack = Stack(part, stack, part.cost + cost_of(stack))
    return stack


def cost_of(stack: Stack | None) -> Cost:
    """The cost of a stack, which is empty at the end of an answer."""
    return NOTHING if stack is None else stack.cost
