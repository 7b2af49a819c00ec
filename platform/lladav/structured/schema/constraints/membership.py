"""Whether a value has a form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lladav.structured.forms import (
    ArrayForm,
    ConstantForm,
    Contains,
    Form,
    JsonValue,
    NumberForm,
    ObjectForm,
    Schema,
    StringForm,
)
from lladav.structured.schema.constraints.numbers import has_number
from lladav.structured.schema.constraints.scalars import admits
from lladav.structured.schema.formulas import NodeSource
from lladav.structured.schema.json_values import exact, identity


def valid_constants(values: Iterable[JsonValue], forms: Iterable[Form], nodes: NodeSource) -> Iterator[Form]:
    """The values that have one of the forms, as a form."""
    listed = [*forms]
    kept = tuple(value for value in values if any(has_form(form, value, nodes) for form in listed))
    if kept:
        yield ConstantForm(kept)


def has_form(form: Form, value: JsonValue, nodes: NodeSource) -> bool:
    """Whether a value has a form."""
    if isinstance(form, ConstantForm):
        return identity(value) in map(identity, form.values)
    if isinstance(form, StringForm):
        return isinstance(value, str) and admits(form, value)
    if isinstance(form, ArrayForm):
        return isinstance(value, list) and _is_array_of(form, value, nodes)
    if isinstance(form, ObjectForm):
        return isinstance(value, dict) and _is_object_of(form, value, nodes)
    return _is_number_of(form, value)


def _is_number_of(form: NumberForm, value: JsonValue) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and has_number(form, exact(value))


def _within(count: int, least: int, most: int | None) -> bool:
    return least <= count and (most is None or count <= most)


def _is_array_of(form: ArrayForm, values: list[JsonValue], nodes: NodeSource) -> bool:
    rest = values[len(form.prefix) :]
    return (
        _within(len(values), form.min_items, form.max_items)
        and (not form.unique or len(set(map(identity, values))) == len(values))
        and all(nodes.accepts(schema, value) for schema, value in zip(form.prefix, values, strict=False))
        and (not rest or (form.items is not None and _all_accepted(form.items, rest, nodes)))
        and (form.contains is None or _contains(form.contains, values, nodes))
    )


def _all_accepted(schema: Schema, values: list[JsonValue], nodes: NodeSource) -> bool:
    return all(nodes.accepts(schema, value) for value in values)


def _contains(contains: Contains, values: list[JsonValue], nodes: NodeSource) -> bool:
    others = [value for value in values if not nodes.accepts(contains.item, value)]
    counted = _within(len(values) - len(others), contains.min_count, contains.max_count)
    return counted and _all_accepted(contains.other, others, nodes)


def _is_object_of(form: ObjectForm, values: dict[str, JsonValue], nodes: NodeSource) -> bool:
    return (
        _within(len(values), form.min_properties, form.max_properties)
        and form.required <= values.keys()
        and all(_is_property_of(form, name, value, nodes) for name, value in values.items())
    )


def _is_property_of(form: ObjectForm, name: str, value: JsonValue, nodes: NodeSource) -> bool:
    if name in form.properties:
        return nodes.accepts(form.properties[name], value)
    return any(admits(rule.key, name) and nodes.accepts(rule.value, value) for rule in form.rules)
