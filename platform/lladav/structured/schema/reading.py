"""Reads a JSON Schema: checks it, finds its draft, and lists keywords that have no effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lladav.structured.budget import Budget
from lladav.structured.errors import SchemaError
from lladav.structured.forms import JsonValue, Schema
from lladav.structured.schema.drafts import ANNOTATIONS, Draft, draft_of
from lladav.structured.schema.formulas import Condition
from lladav.structured.schema.json_values import FORMATS
from lladav.structured.schema.nodes import TOO_MANY_COMBINATIONS, Nodes
from lladav.structured.schema.subschemas import DYNAMIC, Document

MAX_DEPTH = 128
"""Levels of nested JSON; more could exhaust the stack."""
MAX_VALUES = 200_000
"""JSON values in a schema."""
VALUE_STEPS = 2
"""Steps to read a JSON value of a schema."""
MAX_STEPS = 1_000_000
"""Steps of the search for all forms of a document, also for those that are found while decoding."""


@dataclass(frozen=True)
class ReadSchema:
    """A schema whose forms are found when they are asked for, and notes for its author."""

    root: Schema
    warnings: tuple[str, ...]


def read_schema(schema: JsonValue, budget: Budget | None = None) -> ReadSchema:
    """Read a JSON Schema. Raises ``SchemaError`` if it is malformed, unsupported or permits no value."""
    search = Budget(MAX_STEPS, TOO_MANY_COMBINATIONS, budget)
    plain = _plain(schema, search)
    draft = draft_of(plain)
    document = Document(plain, draft, _has_dynamic_scope(plain))
    root = Nodes(search).node((Condition(document.root),))
    if not root.forms:
        raise SchemaError("#", "permits no value", "impossible_schema")
    return ReadSchema(root, tuple(_warnings(plain, draft)))


def _plain(schema: JsonValue, budget: Budget) -> bool | dict[str, Any]:
    """A copy of a schema that is plain JSON of limited size."""
    if not isinstance(schema, bool | dict):
        raise SchemaError("#", "is not a schema: write an object or a boolean", "invalid_schema")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        reason = "is not plain JSON: too deep, or has infinite numbers or invalid Unicode"
        raise SchemaError("#", reason, "invalid_schema") from None
    count = 0
    for count, (_, depth) in enumerate(_values(schema), 1):
        if depth > MAX_DEPTH or count > MAX_VALUES:
            reason = f"has more than {MAX_DEPTH} levels or {MAX_VALUES} values; make the schema smaller"
            raise SchemaError("#", reason)
    budget.spend(VALUE_STEPS * count)
    return json.loads(text)


def _values(schema: JsonValue) -> Iterator[tuple[JsonValue, int]]:
    """All values within a schema, with their depth."""
    todo: list[tuple[JsonValue, int]] = [(schema, 0)]
    while todo:
        value, depth = todo.pop()
        yield value, depth
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        todo += ((child, depth + 1) for child in children)


def _has_dynamic_scope(schema: JsonValue) -> bool:
    """Whether the meaning of a subschema may depend on the references that lead to it."""
    objects = (value for value, _ in _values(schema) if isinstance(value, dict))
    return any(
        not DYNAMIC.isdisjoint(each) or "json-schema.org/draft/20" in str(each.get("$ref", ""))
        for each in objects
    )


def _warnings(schema: bool | dict[str, Any], draft: Draft) -> Iterator[str]:
    """One line about unknown keywords, one about unknown formats."""
    keywords: dict[str, None] = {}
    formats: dict[str, None] = {}
    for each, own in _subschemas(schema, draft):
        keywords |= dict.fromkeys(key for key in each if key not in ANNOTATIONS and not own.has(key))
        name = each.get("format")
        formats |= {name: None} if isinstance(name, str) and name not in FORMATS else {}
    if keywords:
        yield f"unknown keywords without effect: {', '.join(keywords)}"
    if formats:
        yield f"unknown formats without effect: {', '.join(formats)}"


def _subschemas(schema: bool | dict[str, Any], draft: Draft) -> Iterator[tuple[dict[str, Any], Draft]]:
    """All subschemas, with their drafts."""
    todo: list[tuple[Any, Draft]] = [(schema, draft)]
    while todo:
        each, outer = todo.pop(0)
        if isinstance(each, dict):
            own = draft_of(each, outer)
            yield each, own
            todo += ((child, own) for child in own.specification.subresources_of(each))
