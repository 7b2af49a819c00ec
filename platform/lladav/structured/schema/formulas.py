"""What a subschema says about values of one JSON type, as a formula in negation normal form.

A formula is a conjunction of items. Constraints that apply directly are checks; other subschemas are
conditions, so a formula is never deeper than the keywords of one subschema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from lladav.structured.errors import SchemaError
from lladav.structured.forms import Form, JsonValue, Schema
from lladav.structured.schema.subschemas import Subschema


@dataclass(frozen=True)
class Condition:
    """A subschema that a value satisfies, or must not satisfy."""

    subschema: Subschema
    holds: bool = True

    def __invert__(self) -> Condition:
        return Condition(self.subschema, not self.holds)


class NodeSource(Protocol):
    """Finds the node of a conjunction of conditions."""

    def node(self, conditions: tuple[Condition, ...]) -> Schema:
        """The schema of values that satisfy all conditions."""
        ...

    def is_empty(self, conditions: tuple[Condition, ...]) -> bool:
        """Whether it is certain, after little work, that no value satisfies all conditions."""
        ...

    def accepts(self, schema: Schema, value: JsonValue) -> bool:
        """Whether a value certainly satisfies a schema."""
        ...

    def names(self, conditions: tuple[Condition, ...]) -> tuple[Form, ...]:
        """The forms of strings that satisfy all conditions."""
        ...


class Constraints(Protocol):
    """A conjunction of constraints on values of one JSON type."""

    @property
    def size(self) -> int:
        """Number of parts, to which the time of a merge is proportional."""
        ...

    def merge(self, other: Self, nodes: NodeSource) -> Self | None:
        """Both; None if that is certainly impossible, and an equal object if ``other`` adds nothing."""
        ...

    def within(self, owners: frozenset[Subschema]) -> Self:
        """The same, as part of subschemas that have unevaluated properties or items."""
        ...

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        """Whether a value of the type certainly satisfies them."""
        ...

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        """The forms of values that satisfy them; raises ``SchemaError`` for what cannot be enforced."""
        ...


@dataclass(frozen=True)
class Check:
    """Constraints, and the alternatives that negate them."""

    constraints: Any
    otherwise: Callable[[], Alternatives] | None = None
    """None if the check is itself part of a negation, which is not negated again."""


@dataclass(frozen=True)
class Either:
    """At least one of several conjunctions."""

    alternatives: Alternatives
    not_negatable: SchemaError | None = None
    """Why the negation cannot be guaranteed, if it cannot."""


@dataclass(frozen=True)
class Late:
    """A disjunction that depends on the constraints collected so far, for example on the known names."""

    alternatives: Callable[[Any, NodeSource], Alternatives]


@dataclass(frozen=True)
class Unenforceable:
    """Something that cannot be guaranteed; a conjunction that has it is dropped."""

    error: SchemaError


Item: TypeAlias = Condition | Check | Either | Late | Unenforceable
Formula: TypeAlias = tuple[Item, ...]
Alternatives: TypeAlias = tuple[Formula, ...]
NEVER = Either(())
TRUE: Formula = ()
FALSE: Formula = (NEVER,)


def held(constraints: Constraints, *violations: Constraints) -> Formula:
    """Values that satisfy constraints; all others satisfy one of the violations."""
    return (Check(constraints, lambda: tuple((Check(each),) for each in violations)),)


def held_only(constraints: Constraints, subschema: Subschema, keyword: str) -> Formula:
    """Values that satisfy the constraints of a keyword, of which no negation can be guaranteed."""
    error = SchemaError(f"{subschema.path}/{keyword}", "is not supported inside of not or oneOf")
    return (Check(constraints, lambda: ((Unenforceable(error),),)),)


def negation(formula: Formula) -> Alternatives:
    """The alternatives under which a conjunction does not hold."""
    return tuple(alternative for item in formula for alternative in _negation_of(item))


def _negation_of(item: Item) -> Alternatives:
    if isinstance(item, Condition):
        return ((~item,),)
    if isinstance(item, Check) and item.otherwise:
        return item.otherwise()
    if isinstance(item, Either) and not item.not_negatable:
        return (tuple(Either(negation(alternative)) for alternative in item.alternatives),)
    error = item.not_negatable if isinstance(item, Either) else getattr(item, "error", None)
    return ((Unenforceable(error or SchemaError("#", "cannot be negated")),),)
