"""Constraints on null, booleans and strings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from lladav.structured.forms import ConstantForm, Form, JsonValue, StringForm
from lladav.structured.schema.formulas import NodeSource
from lladav.structured.schema.json_values import ValueSet, common, satisfies
from lladav.structured.schema.subschemas import Subschema

T = TypeVar("T")


def smaller(a: int | None, b: int | None) -> int | None:
    """The smaller limit; None is no limit."""
    return b if a is None else a if b is None else min(a, b)


def union(a: tuple[T, ...], b: tuple[T, ...]) -> tuple[T, ...]:
    """The elements of both, in order and without repetition."""
    return tuple(dict.fromkeys((*a, *b)))


def has_string(form: StringForm, text: str) -> bool:
    """Whether a string has a form; raises ``SchemaError`` for a pattern that cannot be read."""
    return (
        form.min_length <= len(text)
        and (form.max_length is None or len(text) <= form.max_length)
        and text not in form.excluded
        and all(satisfies(text, "pattern", pattern) for pattern in form.patterns)
        and not any(satisfies(text, "pattern", pattern) for pattern in form.not_patterns)
        and all(satisfies(text, "format", name) for name in form.formats)
    )


def both(a: StringForm, b: StringForm) -> StringForm | None:
    """The form of strings that have both; None if there are certainly none."""
    form = StringForm(
        max(a.min_length, b.min_length),
        smaller(a.max_length, b.max_length),
        union(a.patterns, b.patterns),
        union(a.not_patterns, b.not_patterns),
        union(a.formats, b.formats),
        a.excluded | b.excluded,
    )
    too_short = form.max_length is not None and form.max_length < form.min_length
    nothing = form.max_length == 0 and "" in form.excluded
    contradiction = not {*form.patterns}.isdisjoint(form.not_patterns)
    return None if too_short or nothing or contradiction else form


@dataclass(frozen=True)
class ValueConstraints:
    """Null and booleans: the values that are left."""

    values: ValueSet

    @property
    def size(self) -> int:
        return len(self.values.values)

    def merge(self, other: ValueConstraints, nodes: NodeSource) -> ValueConstraints | None:
        del nodes
        values = common(self.values, other.values)
        return ValueConstraints(values) if values else None

    def within(self, owners: frozenset[Subschema]) -> ValueConstraints:
        del owners
        return self

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        del nodes
        return value in self.values

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        del nodes
        yield ConstantForm(self.values.values)


@dataclass(frozen=True)
class StringConstraints:
    """Strings of a form, or the values of a list that have it."""

    form: StringForm = field(default_factory=StringForm)
    values: ValueSet | None = None

    @property
    def size(self) -> int:
        return len(self.form.patterns) + len(self.values.values if self.values else ())

    def merge(self, other: StringConstraints, nodes: NodeSource) -> StringConstraints | None:
        del nodes
        form = both(self.form, other.form)
        if form is None:
            return None
        values = common(self.values, other.values)
        if values is None:
            return StringConstraints(form)
        values = values.where(lambda value: isinstance(value, str) and has_string(form, value))
        return StringConstraints(form, values) if values else None

    def within(self, owners: frozenset[Subschema]) -> StringConstraints:
        del owners
        return self

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        del nodes
        is_listed = self.values is None or value in self.values
        return is_listed and isinstance(value, str) and has_string(self.form, value)

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        del nodes
        yield self.form if self.values is None else ConstantForm(self.values.values)
