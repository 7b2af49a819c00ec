"""Brings a conjunction of subschemas into disjunctive normal form, for values of one JSON type.

A depth-first search without recursion. A state collects constraints and the disjunctions that are still to
be decided. Disjunctions of negated subschemas are decided last: mostly the constraints then imply an
alternative, as the discriminator of one member of ``oneOf`` excludes the other members.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lladav.structured.budget import Budget, BudgetExceeded
from lladav.structured.errors import SchemaError
from lladav.structured.forms import Form
from lladav.structured.schema.formulas import (
    Alternatives,
    Check,
    Condition,
    Constraints,
    Formula,
    Item,
    Late,
    NodeSource,
    Unenforceable,
    negation,
)
from lladav.structured.schema.json_values import JsonType
from lladav.structured.schema.keywords.constants import UNCONSTRAINED
from lladav.structured.schema.keywords.table import formula
from lladav.structured.schema.subschemas import Subschema

MAX_FORMS = 64
"""Forms of one type of one node."""
MAX_EXCLUSIONS = 8
"""Forms that negated subschemas may split one conjunction into."""
MAX_EXCLUSION_STEPS = 100
"""States that are tried for these forms."""
MERGE_STEPS = 10
PARTS_PER_STEP = 2
"""Steps to merge small constraints, and parts of large ones that are merged in one step."""
MAX_REFERENCES = 100
"""Subschemas between a value and a keyword that applies to it."""


@dataclass(frozen=True)
class _Origin:
    """The subschema that an item comes from, below those that apply it."""

    condition: Condition
    parent: _Origin | None
    depth: int
    owners: frozenset[Subschema]
    """Those with unevaluated properties or items that this one is part of."""


@dataclass(frozen=True)
class _Goal:
    item: Item
    origin: _Origin | None


@dataclass
class _Group:
    """Counts the forms that negated subschemas split one conjunction into."""

    num_forms: int = 0
    num_states: int = 0

    @property
    def is_full(self) -> bool:
        return self.num_forms >= MAX_EXCLUSIONS or self.num_states >= MAX_EXCLUSION_STEPS


@dataclass
class _State:
    constraints: Any
    goals: list[_Goal]
    """Items to apply, the next one last."""
    choices: list[tuple[Alternatives, _Origin | None]] = field(default_factory=list)
    exclusions: list[tuple[Alternatives, _Origin | None]] = field(default_factory=list)
    """Disjunctions of negated subschemas."""
    late: list[tuple[Late, _Origin | None]] = field(default_factory=list)
    seen: frozenset[object] = frozenset()
    order: tuple[int, ...] = ()
    """The alternatives that were taken."""
    group: _Group | None = None
    items: Iterator[Item] = field(default_factory=lambda: iter(()))
    """Items of the last alternative that are no goals yet: there may be many, and the first ones may fail."""
    origin: _Origin | None = None
    """Where they come from."""

    def next_goal(self) -> _Goal | None:
        """Remove the item to apply next; None if there is none left."""
        if self.goals:
            return self.goals.pop()
        item = next(self.items, None)
        return None if item is None else _Goal(item, self.origin)

    def with_alternative(
        self, number: int, items: Formula, origin: _Origin | None, group: _Group | None
    ) -> _State:
        return replace(
            self,
            goals=[],
            items=iter(items),
            origin=origin,
            choices=[*self.choices],
            exclusions=[*self.exclusions],
            late=[*self.late],
            order=(*self.order, number),
            group=group,
        )


@dataclass
class Expansion:
    """The forms of one type, each with the alternatives that lead to it."""

    forms: list[tuple[tuple[int, ...], Form]] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    """What the forms were made of; a form may permit less."""
    dropped: SchemaError | None = None
    """Why a conjunction was dropped; None if the forms are complete."""

    def drop(self, error: SchemaError) -> None:
        self.dropped = self.dropped or error


class Search:
    """Finds the forms of values of a type that satisfy all conditions."""

    def __init__(self, kind: JsonType, nodes: NodeSource, budget: Budget, path: str) -> None:
        self._kind, self._nodes, self._budget, self._path = kind, nodes, budget, path
        self._found = Expansion()

    def run(self, conditions: tuple[Condition, ...], max_forms: int = MAX_FORMS) -> Expansion:
        """Find up to some number of forms; what is left out is reported as dropped."""
        goals = [_Goal(condition, None) for condition in reversed(conditions)]
        stack = [_State(UNCONSTRAINED[self._kind], goals)]
        while stack and len(self._found.forms) < max_forms:
            state = stack.pop()
            try:
                stack += reversed([*self._advance(state)])
            except BudgetExceeded as error:
                self._found.drop(error.at(self._path))
                break
            except SchemaError as error:
                self._found.drop(error.at(self._path if error.path == "#" else error.path))
        if stack:
            self._found.drop(SchemaError(self._path, "has too many alternatives"))
        return self._found

    def _advance(self, state: _State) -> Iterator[_State]:
        """The states that follow; records the forms of a state that is complete."""
        if state.group:
            if state.group.is_full:
                self._found.drop(SchemaError(self._path, "has too many alternatives inside of not or oneOf"))
                return
            state.group.num_states += 1
        while goal := state.next_goal():
            self._spend(state.constraints)
            if not self._apply(state, goal):
                return
        if not (state.choices or state.exclusions or state.late):
            self._complete(state)
            return
        is_exclusion = not state.choices
        yield from self._branches(state, *self._next_choice(state), is_exclusion)

    def _spend(self, constraints: Constraints) -> None:
        self._budget.spend(MERGE_STEPS + constraints.size // PARTS_PER_STEP)

    def _complete(self, state: _State) -> None:
        self._spend(state.constraints)
        self._found.constraints.append(state.constraints)
        known = [form for _, form in self._found.forms]
        for form in state.constraints.forms(self._nodes):
            if form not in known:
                self._found.forms.append((state.order, form))
        if state.group:
            state.group.num_forms += 1

    def _next_choice(self, state: _State) -> tuple[Alternatives, _Origin | None]:
        for choices in (state.choices, state.exclusions):
            if choices:
                return choices.pop(0)
        late, origin = state.late.pop(0)
        return late.alternatives(state.constraints, self._nodes), origin

    def _branches(
        self, state: _State, alternatives: Alternatives, origin: _Origin | None, is_exclusion: bool
    ) -> Iterator[_State]:
        possible = []
        for number, items in enumerate(alternatives):
            left = self._left(state, items)
            if left == ():
                possible = [(number, ())]
                break
            if left is not None:
                possible.append((number, items))
        group = state.group
        if is_exclusion and len(possible) > 1:
            group = group or _Group()
        for number, items in possible:
            yield state.with_alternative(number, items, origin, group)

    def _left(self, state: _State, items: Formula) -> Formula | None:
        """What an alternative adds to a state: nothing if it is implied, None if it is impossible."""
        constraints, others = state.constraints, []
        for item in items:
            if not isinstance(item, Check):
                others.append(item)
                continue
            self._spend(constraints)
            merged = constraints.merge(item.constraints, self._nodes)
            if merged is None:
                return None
            constraints = merged
        return () if not others and constraints == state.constraints else items

    def _apply(self, state: _State, goal: _Goal) -> bool:
        """Add an item to a state; whether that is possible."""
        item, origin = goal.item, goal.origin
        if isinstance(item, Unenforceable):
            raise item.error
        if isinstance(item, Check):
            owners = origin.owners if origin else frozenset()
            own = item.constraints.within(owners) if owners else item.constraints
            state.constraints = state.constraints.merge(own, self._nodes)
            return state.constraints is not None
        if isinstance(item, Condition):
            return self._expand(state, item, origin)
        if isinstance(item, Late):
            state.late.append((item, origin))
            return True
        return _add_choice(state, item.alternatives, origin, state.choices)

    def _expand(self, state: _State, condition: Condition, parent: _Origin | None) -> bool:
        """Replace a subschema by its formula. One that applies itself has no finite meaning."""
        origin = _origin(condition, parent)
        if origin is None:
            return False
        key = (condition, origin.owners)
        if key in state.seen:
            return True
        state.seen |= {key}
        items = formula(condition.subschema, self._kind)
        if condition.holds:
            state.goals += (_Goal(item, origin) for item in reversed(items))
            return True
        return _add_choice(state, negation(items), origin, state.exclusions)


def _add_choice(
    state: _State,
    alternatives: Alternatives,
    origin: _Origin | None,
    choices: list[tuple[Alternatives, _Origin | None]],
) -> bool:
    if () in alternatives:
        return True
    if len(alternatives) == 1:
        state.goals += (_Goal(item, origin) for item in reversed(alternatives[0]))
    elif alternatives:
        choices.append((alternatives, origin))
    return bool(alternatives)


def _origin(condition: Condition, parent: _Origin | None) -> _Origin | None:
    """The origin of the items of a subschema; None if it is already part of itself."""
    ancestor = parent
    while ancestor:
        if ancestor.condition == condition:
            return None
        ancestor = ancestor.parent
    depth = parent.depth + 1 if parent else 1
    if depth > MAX_REFERENCES:
        raise SchemaError(condition.subschema.path, f"is behind more than {MAX_REFERENCES} references")
    owners = parent.owners if parent else frozenset()
    if not condition.holds:
        owners = frozenset()
    elif any(condition.subschema.get(each) is not None for each in _UNEVALUATED):
        owners |= {condition.subschema}
    return _Origin(condition, parent, depth, owners)


_UNEVALUATED = "unevaluatedProperties", "unevaluatedItems"
