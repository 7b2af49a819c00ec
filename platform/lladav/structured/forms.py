"""Forms: what a JSON Schema permits, one JSON type at a time.

A schema is a union of forms, and a value is valid if it has one of them. References, ``allOf``, ``anyOf``,
``oneOf``, ``not``, ``if`` and the like are resolved into forms. A form may permit less than its schema (a
branch that cannot be guaranteed is dropped), never more: every value of a form is valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


class Schema(Protocol):
    """A schema whose forms are found when they are asked for, because references may be recursive.

    Equal subschemas are the same object, so a schema serves as a key of a cache.
    """

    @property
    def path(self) -> str:
        """Where it stands, as a JSON pointer."""
        ...

    @property
    def forms(self) -> Sequence[Form]:
        """The forms, most specific or first written first; empty if no value is valid.

        Raises ``SchemaError`` if a keyword can be neither enforced nor shown to have no effect.
        """
        ...


@dataclass(frozen=True)
class ConstantForm:
    """One of some values of any type: ``enum``, ``const``, ``true``, ``false``, ``null``. Never empty."""

    values: tuple[JsonValue, ...]


@dataclass(frozen=True)
class StringForm:
    """A string of ``min_length`` to ``max_length`` characters that satisfies all conditions."""

    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[str, ...] = ()
    """Regular expressions of ECMA-262; each occurs somewhere in the string."""
    not_patterns: tuple[str, ...] = ()
    """Regular expressions that occur nowhere in the string."""
    formats: tuple[str, ...] = ()
    """Values of ``format`` that are asserted."""
    excluded: frozenset[str] = frozenset()
    """Strings that are not permitted."""


@dataclass(frozen=True)
class NumberForm:
    """A number from ``low`` to ``high``; None is no bound."""

    low: Fraction | None = None
    high: Fraction | None = None
    low_excluded: bool = False
    high_excluded: bool = False
    integer: bool = False
    multiples: tuple[Fraction, ...] = ()
    """The number is a multiple of each."""
    excluded: frozenset[Fraction] = frozenset()
    """Numbers that are not permitted."""


@dataclass(frozen=True)
class Contains:
    """``min_count`` to ``max_count`` items have ``item``; all others must have ``other``."""

    item: Schema
    other: Schema
    """Items that do not count."""
    min_count: int = 1
    max_count: int | None = None


@dataclass(frozen=True)
class ArrayForm:
    """An array: items of ``prefix`` by position, then any number of ``items``."""

    prefix: tuple[Schema, ...] = ()
    items: Schema | None = None
    """Items after the prefix; None if there are none."""
    min_items: int = 0
    max_items: int | None = None
    unique: bool = False
    contains: Contains | None = None


@dataclass(frozen=True)
class KeyRule:
    """Names of properties that are not listed, and their schema. Rules of a form share no name."""

    key: StringForm
    value: Schema


@dataclass(frozen=True)
class ObjectForm:
    """An object: listed properties in their order, then others by ``rules``."""

    properties: Mapping[str, Schema] = field(default_factory=dict)
    """Schemas by name; one that no value satisfies is not listed. Names of ``rules`` exclude all that are
    listed or forbidden."""
    required: frozenset[str] = frozenset()
    """Names among ``properties`` that are always present."""
    rules: tuple[KeyRule, ...] = ()
    min_properties: int = 0
    max_properties: int | None = None


Form: TypeAlias = ConstantForm | StringForm | NumberForm | ArrayForm | ObjectForm
SCALAR_FORMS = ConstantForm, StringForm, NumberForm
