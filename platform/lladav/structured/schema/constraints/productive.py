"""Which forms have a value, given which schemas have one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lladav.structured.forms import ArrayForm, Contains, Form, ObjectForm, Schema
from lladav.structured.schema.constraints.scalars import smaller


def needed_schemas(form: Form) -> Iterator[Schema]:
    """The schemas that decide whether a form has a value."""
    if isinstance(form, ObjectForm):
        if form.min_properties > len(form.required):
            yield from (*form.properties.values(), *(rule.value for rule in form.rules))
        else:
            yield from (form.properties[name] for name in form.properties if name in form.required)
    if isinstance(form, ArrayForm):
        yield from form.prefix[: form.min_items]
        if form.contains:
            yield from (form.contains.item, form.contains.other)
        if form.items and form.min_items > len(form.prefix):
            yield form.items


def is_productive(form: Form, permits: Callable[[Schema], bool]) -> bool:
    """Whether a form has a value; ``permits`` tells whether a schema does."""
    if isinstance(form, ObjectForm):
        return _is_productive_object(form, permits)
    if isinstance(form, ArrayForm):
        return _is_productive_array(form, permits)
    return True


def _is_productive_object(form: ObjectForm, permits: Callable[[Schema], bool]) -> bool:
    if not all(permits(form.properties[name]) for name in form.required):
        return False
    if form.min_properties <= len(form.required):
        return True
    available = sum(permits(schema) for schema in form.properties.values())
    return available >= form.min_properties or any(permits(rule.value) for rule in form.rules)


def _is_productive_array(form: ArrayForm, permits: Callable[[Schema], bool]) -> bool:
    if not all(permits(schema) for schema in form.prefix[: form.min_items]):
        return False
    if form.contains:
        return _has_enough(form.contains, form.min_items, permits)
    return form.min_items <= len(form.prefix) or (form.items is not None and permits(form.items))


def _has_enough(contains: Contains, min_items: int, permits: Callable[[Schema], bool]) -> bool:
    """Whether an array of at least ``min_items`` can have enough items that count, and not too many."""
    if contains.min_count and not permits(contains.item):
        return False
    if max(min_items, contains.min_count) == contains.min_count or permits(contains.other):
        return True
    return permits(contains.item) and (contains.max_count is None or min_items <= contains.max_count)


def pruned(form: Form, permits: Callable[[Schema], bool]) -> Form:
    """The form without properties and items that have no value."""
    if isinstance(form, ObjectForm):
        properties = {name: schema for name, schema in form.properties.items() if permits(schema)}
        rules = tuple(rule for rule in form.rules if permits(rule.value))
        return replace(form, properties=properties, rules=rules)
    return _pruned_array(form, permits) if isinstance(form, ArrayForm) else form


def _pruned_array(form: ArrayForm, permits: Callable[[Schema], bool]) -> ArrayForm:
    if form.contains:
        return _without_contains(form, form.contains, permits)
    length = next((n for n, schema in enumerate(form.prefix) if not permits(schema)), None)
    if length is not None:
        most = length if form.max_items is None else min(length, form.max_items)
        return replace(form, prefix=form.prefix[:length], items=None, max_items=most)
    if form.items is None or permits(form.items):
        return form
    return replace(form, items=None)


def _without_contains(form: ArrayForm, contains: Contains, permits: Callable[[Schema], bool]) -> ArrayForm:
    """The form as a plain list, if all items count or none."""
    if not permits(contains.item):
        return replace(form, items=contains.other if permits(contains.other) else None, contains=None)
    if permits(contains.other):
        return form
    return replace(
        form,
        items=contains.item,
        min_items=max(form.min_items, contains.min_count),
        max_items=smaller(form.max_items, contains.max_count),
        contains=None,
    )
