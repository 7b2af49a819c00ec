"""Random schemas whose keywords interact: few names, few values, every combination."""

from __future__ import annotations

import random
from typing import Any

from lladav.structured.forms import JsonValue

NAMES = ("a", "b", "c1")
PATTERNS = ("^a", "1$", "b|c")
SCALARS: tuple[JsonValue, ...] = (None, True, False, 0, 1, 2, 3.5, -1, 1.0, "", "a", "b", "c1", "ab1")
VALUES: tuple[JsonValue, ...] = (
    *SCALARS,
    *([], [1], ["a"], [1, 1], ["a", 1], [1, "a", None], [[], {}], [0, 1, 2, 3]),
    *({}, {"a": 1}, {"a": "a"}, {"b": 0}, {"a": 1, "b": 1}, {"a": None, "c1": "a"}, {"c1": 2, "z": 1}),
    *({"a": {"a": 1}}, {"a": [1], "b": {}}, {"z": 0}, {"a": 1, "b": "b", "c1": None}, {"b": {"b": 0}}),
)
TYPES = "null boolean integer number string array object".split()


class SchemaMaker:
    """Makes schemas; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._targets: list[str] = []

    def schema(self, depth: int = 3) -> Any:
        """A schema of at most some levels."""
        if depth == 0 or self._random.random() < 0.1:
            return self._leaf()
        made: dict[str, Any] = {}
        for _ in range(self._random.randint(1, 3)):
            made |= self._random.choice(self._makers)(self, depth - 1)
        if self._random.random() < 0.4:
            made |= self._types(0)
        return made

    def root(self) -> dict[str, Any]:
        """A schema with definitions that it may refer to."""
        self._targets = ["#/$defs/d", "#/$defs/e"]
        made = self.schema(3)
        self._targets = []  # a definition that applies itself in place has no meaning
        made = made if isinstance(made, dict) else {"allOf": [made]}
        return {**made, "$defs": {"d": self.schema(2), "e": self.schema(1)}}

    def _leaf(self) -> Any:
        return self._random.choice([True, False, {}, self._types(0), self._constants(0), self._scalars(0)])

    def _some(self, values: Any, least: int = 1) -> list[Any]:
        return self._random.sample([*values], self._random.randint(least, min(3, len(values))))

    def _list(self, depth: int) -> list[Any]:
        return [self.schema(depth) for _ in range(self._random.randint(1, 3))]

    def _types(self, _: int) -> dict[str, Any]:
        chosen = self._some(TYPES)
        return {"type": chosen[0] if len(chosen) == 1 else chosen}

    def _constants(self, _: int) -> dict[str, Any]:
        if self._random.random() < 0.4:
            return {"const": self._random.choice(VALUES)}
        return {"enum": self._random.sample(VALUES, self._random.randint(1, 6))}

    def _scalars(self, _: int) -> dict[str, Any]:
        count, number = self._random.randint(0, 2), self._random.choice([0, 1, 2, 2.5, -1])
        return self._random.choice(
            [
                {"minLength": count},
                {"maxLength": count},
                {"pattern": self._random.choice(PATTERNS)},
                {"minimum": number},
                {"exclusiveMinimum": number},
                {"maximum": number},
                {"exclusiveMaximum": number},
                {"multipleOf": self._random.choice([1, 2, 0.5, 1.5])},
            ]
        )

    def _combinations(self, depth: int) -> dict[str, Any]:
        keyword = self._random.choice(["anyOf", "oneOf", "allOf", "oneOf", "not"])
        return {keyword: self.schema(depth) if keyword == "not" else self._list(depth)}

    def _conditional(self, depth: int) -> dict[str, Any]:
        keywords = ["if", *self._some(["then", "else"])]
        return {keyword: self.schema(depth) for keyword in keywords}

    def _reference(self, _: int) -> dict[str, Any]:
        recursive = [{"properties": {name: {"$ref": "#"}}} for name in NAMES] + [{"items": {"$ref": "#"}}]
        return self._random.choice([*recursive, *({"$ref": target} for target in self._targets)])

    def _properties(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self._random.random() < 0.7:
            made["properties"] = {name: self.schema(depth) for name in self._some(NAMES)}
        if self._random.random() < 0.3:
            made["patternProperties"] = {each: self.schema(depth) for each in self._some(PATTERNS)}
        if self._random.random() < 0.5:
            made["additionalProperties"] = self.schema(depth)
        if self._random.random() < 0.5:
            made["required"] = self._some(NAMES)
        return made

    def _names(self, depth: int) -> dict[str, Any]:
        count = self._random.randint(0, 3)
        return self._random.choice(
            [
                {"minProperties": count},
                {"maxProperties": count},
                {"propertyNames": self.schema(min(depth, 1))},
                {"dependentRequired": {self._random.choice(NAMES): self._some(NAMES, 0)}},
                {"dependentSchemas": {self._random.choice(NAMES): self.schema(depth)}},
                {"unevaluatedProperties": self.schema(min(depth, 1))},
            ]
        )

    def _items(self, depth: int) -> dict[str, Any]:
        count = self._random.randint(0, 3)
        return self._random.choice(
            [
                {"items": self.schema(depth)},
                {"prefixItems": self._list(depth)},
                {"prefixItems": self._list(depth), "items": self.schema(depth)},
                {"minItems": count},
                {"maxItems": count},
                {"uniqueItems": True},
                {"contains": self.schema(depth)},
                {"contains": self.schema(depth), "minContains": count, "maxContains": count + 1},
                {"unevaluatedItems": self.schema(min(depth, 1))},
            ]
        )

    _makers = (
        *(_types, _constants, _scalars, _combinations, _combinations, _conditional, _reference),
        *(_properties, _properties, _names, _items),
    )
