"""Constraints on numbers, by exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from lladav.structured.errors import SchemaError
from lladav.structured.forms import ConstantForm, Form, JsonValue, NumberForm
from lladav.structured.schema.constraints.scalars import union
from lladav.structured.schema.formulas import NodeSource
from lladav.structured.schema.json_values import ValueSet, common, exact
from lladav.structured.schema.subschemas import Subschema

MAX_LISTED = 1000
"""Numbers of a range that are listed if the constraint has no form."""


def both_numbers(a: NumberForm, b: NumberForm) -> NumberForm:
    """The form of numbers that have both, with one number for all multiples."""
    low, low_excluded = _tighter((a.low, a.low_excluded), (b.low, b.low_excluded), 1)
    high, high_excluded = _tighter((a.high, a.high_excluded), (b.high, b.high_excluded), -1)
    multiples = union(a.multiples, b.multiples)
    return NumberForm(
        low,
        high,
        low_excluded,
        high_excluded,
        a.integer or b.integer,
        (_common_multiple(multiples),) if multiples else (),
        a.excluded | b.excluded,
    )


def _common_multiple(steps: Sequence[Fraction]) -> Fraction:
    return Fraction(math.lcm(*(s.numerator for s in steps)), math.gcd(*(s.denominator for s in steps)))


def _tighter(
    a: tuple[Fraction | None, bool], b: tuple[Fraction | None, bool], sign: int
) -> tuple[Fraction | None, bool]:
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    return max(a, b, key=lambda bound: (sign * (bound[0] or 0), bound[1]))


def step_of(form: NumberForm) -> Fraction | None:
    """The number of which all values of a form are multiples."""
    steps = [*form.multiples, *([Fraction(1)] if form.integer else [])]
    return _common_multiple(steps) if steps else None


def ends_of(form: NumberForm, step: Fraction) -> tuple[int | None, int | None]:
    """The first and last multiple of a step within the bounds, as counts of steps."""
    first = last = None
    if form.low is not None:
        times = form.low / step
        first = math.floor(times) + 1 if form.low_excluded else math.ceil(times)
    if form.high is not None:
        times = form.high / step
        last = math.ceil(times) - 1 if form.high_excluded else math.floor(times)
    return first, last


def has_no_number(form: NumberForm) -> bool:
    """Whether no number has a form."""
    step = step_of(form)
    if step is None:
        return _is_empty_interval(form)
    first, last = ends_of(form, step)
    if first is None or last is None or last - first >= len(form.excluded):
        return False if first is None or last is None else last < first
    return all(times * step in form.excluded for times in range(first, last + 1))


def _is_empty_interval(form: NumberForm) -> bool:
    if form.low is None or form.high is None or form.low < form.high:
        return False
    is_point = form.low == form.high and not form.low_excluded and not form.high_excluded
    return not is_point or form.low in form.excluded


def has_number(form: NumberForm, value: Fraction) -> bool:
    """Whether a number has a form."""
    point = NumberForm(value, value)
    return not has_no_number(both_numbers(form, point))


@dataclass(frozen=True)
class NumberConstraints:
    """Numbers of a form, or the values of a list that have it; no multiples of some numbers."""

    form: NumberForm = field(default_factory=NumberForm)
    values: ValueSet | None = None
    not_multiples: tuple[Fraction, ...] = ()

    @property
    def size(self) -> int:
        return len(self.not_multiples) + len(self.values.values if self.values else ())

    def merge(self, other: NumberConstraints, nodes: NodeSource) -> NumberConstraints | None:
        del nodes
        form = both_numbers(self.form, other.form)
        not_multiples = union(self.not_multiples, other.not_multiples)
        step = step_of(form)
        if has_no_number(form) or (step and any((step / each).denominator == 1 for each in not_multiples)):
            return None
        values = common(self.values, other.values)
        if values is not None:
            values = values.where(lambda value: _is_permitted(exact(value), form, not_multiples))
        is_empty = values is not None and not values
        return None if is_empty else NumberConstraints(form, values, not_multiples)

    def within(self, owners: frozenset[Subschema]) -> NumberConstraints:
        del owners
        return self

    def admits(self, value: JsonValue, nodes: NodeSource) -> bool:
        del nodes
        is_listed = self.values is None or value in self.values
        return is_listed and _is_permitted(exact(value), self.form, self.not_multiples)

    def forms(self, nodes: NodeSource) -> Iterator[Form]:
        del nodes
        if self.values is not None:
            yield ConstantForm(tuple(_plain(value) for value in self.values.values))
        elif self.not_multiples:
            yield from self._without_multiples()
        else:
            yield self.form

    def _without_multiples(self) -> Iterator[Form]:
        """The values of a short range, or the open intervals of a long one between two multiples."""
        step = step_of(self.form)
        first, last = ends_of(self.form, step) if step else (None, None)
        if step and first is not None and last is not None and last - first < MAX_LISTED:
            values = (times * step for times in range(first, last + 1))
            found = tuple(_written(v) for v in values if _is_permitted(v, self.form, self.not_multiples))
            if found:
                yield ConstantForm(found)
            return
        intervals = [form for sign in (1, -1) if (form := self._interval(sign))]
        if not intervals:
            raise SchemaError("#", "excludes multiples of a number, which is not supported here")
        yield from intervals

    def _interval(self, sign: int) -> NumberForm | None:
        """Numbers between two multiples, next to a bound or to 0 on one of its sides."""
        form = self.form
        for each in self.not_multiples:
            if sign > 0:
                start = math.floor(form.low / each) * each if form.low is not None else Fraction(0)
                between = NumberForm(start, start + each, True, True)
            else:
                end = math.ceil(form.high / each) * each if form.high is not None else Fraction(0)
                between = NumberForm(end - each, end, True, True)
            form = both_numbers(form, between)
        return None if has_no_number(form) else form


def _is_permitted(value: Fraction, form: NumberForm, not_multiples: tuple[Fraction, ...]) -> bool:
    return has_number(form, value) and not any((value / each).denominator == 1 for each in not_multiples)


def _plain(value: JsonValue) -> JsonValue:
    """An integer without a fraction, because 1.0 is no integer in draft 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _written(value: Fraction) -> JsonValue:
    return int(value) if value.denominator == 1 else float(value)
