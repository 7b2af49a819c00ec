"""Draws random values from forms, so that validators can check them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lladav.structured.forms import (
    ArrayForm,
    ConstantForm,
    Form,
    JsonValue,
    NumberForm,
    ObjectForm,
    Schema,
    StringForm,
)
from lladav.structured.schema.constraints.numeric import ends_of, has_number, step_of
from lladav.structured.schema.constraints.scalars import has_string
from lladav.structured.schema.json_values import identity

SAMPLES = {
    "date-time": "2024-02-29T23:59:59.5Z",
    "date": "2024-02-29",
    "time": "12:00:00+01:00",
    "duration": "P3DT4H",
    "email": "a.b@example.org",
    "idn-email": "a.b@example.org",
    "hostname": "www.example.org",
    "idn-hostname": "www.example.org",
    "ipv4": "192.168.0.1",
    "ipv6": "fe80::1",
    "uri": "https://example.org/a?b#c",
    "uri-reference": "/a/b",
    "iri": "https://example.org/a",
    "iri-reference": "/a",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uri-template": "https://example.org/{id}",
    "json-pointer": "/a/0",
    "relative-json-pointer": "1/a",
    "regex": "^a+$",
}
ALPHABET = "abcxyzABC0123456789_-. /äß漢"
MAX_DEPTH = 7


class NotDrawnError(Exception):
    """No value was found; there may be one."""


class Drawer:
    """Draws values; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def value(self, schema: Schema, depth: int = 0) -> JsonValue:
        forms = [*schema.forms]
        if depth >= MAX_DEPTH:
            forms = [form for form in forms if not isinstance(form, ArrayForm | ObjectForm)] or forms
        self._random.shuffle(forms)
        if depth > 3 * MAX_DEPTH:
            raise NotDrawnError
        for form in forms:
            try:
                return self.of_form(form, depth)
            except NotDrawnError:
                continue
        raise NotDrawnError

    def of_form(self, form: Form, depth: int = 0) -> JsonValue:
        if isinstance(form, ConstantForm):
            return self._random.choice(form.values)
        if isinstance(form, StringForm):
            return self.string(form)
        if isinstance(form, NumberForm):
            return self.number(form)
        return self.array(form, depth) if isinstance(form, ArrayForm) else self.object(form, depth)

    def string(self, form: StringForm) -> str:
        for _ in range(200):
            text = self._candidate(form)
            if has_string(form, text):
                return text
        raise NotDrawnError

    def _candidate(self, form: StringForm) -> str:
        if form.formats:
            return SAMPLES[self._random.choice(form.formats)]
        if form.patterns:
            return self._matching(self._random.choice(form.patterns))
        most = form.min_length + 5 if form.max_length is None else min(form.max_length, form.min_length + 5)
        length = self._random.randint(form.min_length, most)
        if length > 100_000:
            raise NotDrawnError
        return "".join(self._random.choices(ALPHABET, k=length))

    def _matching(self, pattern: str) -> str:
        try:
            tree = re._parser.parse(pattern)  # type: ignore[attr-defined]
        except re.error:
            raise NotDrawnError from None
        return Expression(self._random).text(tree)

    def number(self, form: NumberForm) -> float:
        step = step_of(form)
        for _ in range(50):
            value = self._real(form) if step is None else self._multiple(form, step)
            if has_number(form, value):
                return int(value) if value.denominator == 1 else float(value)
        raise NotDrawnError

    def _multiple(self, form: NumberForm, step: Fraction) -> Fraction:
        first, last = ends_of(form, step)
        if first is None:
            first = -5 if last is None else last - 5
        return self._random.randint(first, first + 10 if last is None else min(last, first + 10)) * step

    def _real(self, form: NumberForm) -> Fraction:
        low = form.low if form.low is not None else (form.high or Fraction(5)) - 10
        high = form.high if form.high is not None else low + 20
        return low + (high - low) * Fraction(self._random.randint(0, 8), 8)

    def array(self, form: ArrayForm, depth: int) -> list[JsonValue]:
        least = max(form.min_items, form.contains.min_count if form.contains else 0)
        most = least + (3 if depth < MAX_DEPTH else 0)
        if form.items is None:
            most = min(most, len(form.prefix))
        length = self._random.randint(least, most if form.max_items is None else min(most, form.max_items))
        if length > 1000 or most < least:
            raise NotDrawnError
        if form.contains:
            return self._containing(form, length, depth)
        schemas = [form.prefix[n] if n < len(form.prefix) else form.items for n in range(length)]
        return self._items([schema for schema in schemas if schema], form.unique, depth)

    def _containing(self, form: ArrayForm, length: int, depth: int) -> list[JsonValue]:
        assert form.contains
        counted = form.contains.min_count
        schemas = [form.contains.item] * counted + [form.contains.other] * (length - counted)
        self._random.shuffle(schemas)
        return self._items(schemas, form.unique, depth)

    def _items(self, schemas: Sequence[Schema], unique: bool, depth: int) -> list[JsonValue]:
        items: dict[Any, JsonValue] = {}
        for n, schema in enumerate(schemas):
            for _ in range(20):
                item = self.value(schema, depth + 1)
                key = identity(item) if unique else n
                if key not in items:
                    break
            else:
                raise NotDrawnError
            items[key] = item
        return [*items.values()]

    def object(self, form: ObjectForm, depth: int) -> dict[str, JsonValue]:
        rate = 0.5 if depth < 3 else 0.1 if depth < MAX_DEPTH else 0.0
        optional = [name for name in form.properties if name not in form.required]
        chosen = {name for name in optional if self._random.random() < rate}
        most = math.inf if form.max_properties is None else form.max_properties
        self._random.shuffle(optional)
        for name in optional:
            if len(form.required | chosen) < form.min_properties:
                chosen.add(name)
            if len(form.required | chosen) > most:
                chosen.discard(name)
        drawn = {
            name: self._property(schema, depth, name in form.required)
            for name, schema in form.properties.items()
            if name in form.required or name in chosen
        }
        values = {name: value for name, value in drawn.items() if value is not NotDrawnError}
        self._others(form, values, rate, most, depth)
        if not form.min_properties <= len(values) <= most:
            raise NotDrawnError
        return values

    def _property(self, schema: Schema, depth: int, needed: bool) -> Any:
        try:
            return self.value(schema, depth + 1)
        except NotDrawnError:
            if needed:
                raise
            return NotDrawnError

    def _others(
        self, form: ObjectForm, values: dict[str, JsonValue], rate: float, most: float, depth: int
    ) -> None:
        for rule in form.rules:
            for _ in range(form.min_properties + 2):
                wanted = len(values) < form.min_properties or self._random.random() < rate
                if not wanted or len(values) >= most:
                    break
                try:
                    name, value = self.string(rule.key), self.value(rule.value, depth + 1)
                except NotDrawnError:
                    break
                assert name not in form.properties
                values[name] = value


class Expression:
    """Draws a text that matches a parsed regular expression of the standard library, mostly."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def text(self, tree: Any) -> str:
        return "".join(self._node(str(kind), value) for kind, value in tree)

    def _node(self, kind: str, value: Any) -> str:
        if kind == "LITERAL":
            return chr(value)
        if kind in ("NOT_LITERAL", "ANY"):
            return self._random.choice([c for c in ALPHABET if ord(c) != value])
        if kind == "IN":
            return self._one_of(value)
        if kind == "BRANCH":
            return self.text(self._random.choice(value[1]))
        if kind == "SUBPATTERN":
            return self.text(value[3])
        if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, body = value
            count = self._random.randint(least, min(int(most), least + 3))
            return "".join(self.text(body) for _ in range(count))
        return ""

    def _one_of(self, members: Any) -> str:
        if str(members[0][0]) == "NEGATE":
            banned = {c for member in members[1:] for c in self._member(member, every=True)}
            return self._random.choice([c for c in ALPHABET + "!" if c not in banned] or ["~"])
        return self._random.choice(self._member(self._random.choice(members), every=False))

    def _member(self, member: Any, every: bool) -> str:
        kind, value = str(member[0]), member[1]
        if kind == "LITERAL":
            return chr(value)
        if kind == "RANGE":
            low, high = value
            return (
                "".join(map(chr, range(low, min(high, low + 300) + 1)))
                if every
                else chr(self._random.randint(low, high))
            )
        classes = {"DIGIT": "0123456789", "SPACE": " ", "WORD": "abcXYZ019_"}
        return next((text for name, text in classes.items() if str(value).endswith("_" + name)), "#")
