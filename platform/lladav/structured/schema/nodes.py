"""Nodes: the schemas of forms. A node is a conjunction of conditions, expanded when its forms are asked for.

A node is productive if some form has a finite value. Forms and properties that are not are left out, so a
reference that only leads to itself permits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain

from lladav.structured.budget import Budget
from lladav.structured.errors import SchemaError
from lladav.structured.forms import ConstantForm, Form, JsonValue, Schema
from lladav.structured.schema.constraints.productive import is_productive, needed_schemas, pruned
from lladav.structured.schema.formulas import Condition
from lladav.structured.schema.json_values import JsonType, type_of
from lladav.structured.schema.keywords.constants import types_of
from lladav.structured.schema.search import Expansion, Search

MAX_STEPS = 100_000
"""Steps to find the forms of one type of one node."""
MAX_PROBE_STEPS = 3_000
"""Steps to find whether a conjunction is empty."""
MAX_NESTED = 6
"""Levels of properties that are compared for that."""
SETTLING_STEPS = 3
"""Steps to find whether a form is productive."""
TOO_MANY_COMBINATIONS = "has too many combinations of alternatives; make the schema smaller"


class Nodes:
    """All nodes of a document; equal conjunctions are the same node."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._nodes: dict[frozenset[Condition], Node] = {}
        self._nested = 0
        self._probe = budget

    def node(self, conditions: tuple[Condition, ...]) -> Node:
        kept = tuple(dict.fromkeys(each for each in conditions if not _is_trivial(each)))
        key = frozenset(kept)
        if key not in self._nodes:
            self._nodes[key] = Node(kept, self)
        return self._nodes[key]

    def accepts(self, schema: Schema, value: JsonValue) -> bool:
        assert isinstance(schema, Node)
        found = schema.expansion(type_of(value))
        return any(constraints.admits(value, self) for constraints in found.constraints)

    def names(self, conditions: tuple[Condition, ...]) -> tuple[Form, ...]:
        found = self.node(conditions).expansion(JsonType.STRING)
        if found.dropped and not found.forms:
            raise found.dropped
        return tuple(form for _, form in found.forms)

    def is_empty(self, conditions: tuple[Condition, ...]) -> bool:
        if self._nested >= MAX_NESTED:
            return False
        if not self._nested:
            self._probe = Budget(MAX_PROBE_STEPS, TOO_MANY_COMBINATIONS, self._budget)
        self._nested += 1
        try:
            return self.node(conditions).is_empty
        finally:
            self._nested -= 1

    def search(self, node: Node, kind: JsonType) -> Expansion:
        """The forms of a type, before those without a finite value are left out."""
        budget = Budget(MAX_STEPS, TOO_MANY_COMBINATIONS, self._budget)
        return Search(kind, self, budget, node.path).run(node.conditions)

    def settle(self, node: Node) -> None:
        """Find whether a node is productive: the least fixed point over all nodes that its forms need."""
        region: dict[Node, list[Form]] = {}
        todo = [node]
        while todo:
            each = todo.pop()
            if each.is_productive is None and each not in region:
                region[each] = [*each.all_forms()]
                todo += (child for form in region[each] for child in _needed(form))
        while self._settle_some(region):
            pass
        for each in region:
            each.is_productive = bool(each.is_productive)

    def permits(self, schema: Schema) -> bool:
        """Whether a node is productive."""
        assert isinstance(schema, Node)
        if schema.is_productive is None:
            self.settle(schema)
        return bool(schema.is_productive)

    def reason(self, node: Node) -> SchemaError | None:
        """Why a node or one that it needs has no form, if that is a limit of the reader."""
        seen, todo = {node}, [node]
        while todo:
            each = todo.pop()
            if each.dropped:
                return each.dropped
            children = chain.from_iterable(_needed(form) for form in each.all_forms())
            fresh = [child for child in children if not self.permits(child) and child not in seen]
            seen.update(fresh)
            todo += fresh
        return None

    def _settle_some(self, region: dict[Node, list[Form]]) -> bool:
        """Mark nodes whose forms only need marked ones; whether there are any new."""
        changed = False
        for each in reversed(region):
            self._budget.spend(SETTLING_STEPS)
            if not each.is_productive and any(is_productive(form, _is_marked) for form in region[each]):
                each.is_productive = changed = True
        return changed

    def has_none(self, node: Node, kind: JsonType) -> bool:
        """Whether it is certain that there is no form of a type."""
        found = Search(kind, self, self._probe, node.path).run(node.conditions, max_forms=1)
        return not found.forms and not found.dropped


class Node:
    """A conjunction of conditions on a value."""

    def __init__(self, conditions: tuple[Condition, ...], nodes: Nodes) -> None:
        self.conditions = conditions
        self.path = conditions[0].subschema.path if conditions else "#"
        self._nodes = nodes
        self._expansions: dict[JsonType, Expansion | None] = {}
        self._forms: tuple[Form, ...] | None = None
        self._is_empty: bool | None = None
        self.is_productive: bool | None = None
        """Whether there is a finite value; None if that is not known yet."""

    @property
    def forms(self) -> Sequence[Form]:
        if self._forms is None:
            self._nodes.settle(self)
            if not self.is_productive and (error := self._nodes.reason(self)):
                raise error
            permits = self._nodes.permits
            found = [pruned(form, permits) for form in self.all_forms() if is_productive(form, permits)]
            self._forms = tuple(_joined(found))
        return self._forms

    def all_forms(self) -> Iterator[Form]:
        """The forms, with those that have no finite value, in the order of the text."""
        found = [
            (order, n, form)
            for n, kind in enumerate(self._kinds)
            for order, form in self.expansion(kind).forms
        ]
        return (form for _, _, form in sorted(found, key=lambda each: each[:2]))

    @cached_property
    def _kinds(self) -> list[JsonType]:
        """Types that may have forms, in the order in which ``type`` lists them."""
        listed = next(
            (t for each in self.conditions if isinstance(t := each.subschema.get("type"), list)), []
        )
        named = [JsonType.NUMBER if name == "integer" else JsonType(name) for name in listed]
        possible = frozenset(JsonType).intersection(
            *(types_of(each.subschema) for each in self.conditions if each.holds)
        )
        return [kind for kind in dict.fromkeys((*named, *JsonType)) if kind in possible]

    def expansion(self, kind: JsonType) -> Expansion:
        """The forms of a type; raises ``SchemaError`` if they are just being found."""
        if kind not in self._kinds:
            return Expansion()
        if kind not in self._expansions:
            self._expansions[kind] = None
            self._expansions[kind] = self._nodes.search(self, kind)
        found = self._expansions[kind]
        if found is None:
            raise SchemaError(self.path, "depends on itself")
        return found

    @property
    def is_empty(self) -> bool:
        """Whether it is certain that no value satisfies the conditions."""
        if self._is_empty is None:
            self._is_empty = False  # in case the answer depends on itself
            self._is_empty = all(self._nodes.has_none(self, kind) for kind in self._kinds)
        return self._is_empty

    @property
    def dropped(self) -> SchemaError | None:
        """Why a form may be missing."""
        return next((error for kind in self._kinds if (error := self.expansion(kind).dropped)), None)


def _needed(form: Form) -> Iterator[Node]:
    return (schema for schema in needed_schemas(form) if isinstance(schema, Node))


def _is_marked(schema: Schema) -> bool:
    assert isinstance(schema, Node)
    return bool(schema.is_productive)


def _is_trivial(condition: Condition) -> bool:
    return condition.holds and (condition.subschema.schema is True or condition.subschema.schema == {})


def _joined(forms: list[Form]) -> Iterator[Form]:
    """The forms with all constants in one."""
    constants = [form for form in forms if isinstance(form, ConstantForm)]
    joined = ConstantForm(tuple(value for form in constants for value in form.values)) if constants else None
    for form in forms:
        if not isinstance(form, ConstantForm):
            yield form
        elif form is constants[0] and joined:
            yield joined
