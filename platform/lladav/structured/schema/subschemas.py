"""Subschemas of a document, found by their place or by a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jsonschema_specifications
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import lookup_recursive_ref

from lladav.structured.errors import SchemaError, pointer
from lladav.structured.forms import JsonValue
from lladav.structured.schema.drafts import Draft, check_metaschema, draft_of

DYNAMIC = {"$dynamicRef", "$recursiveRef"}


@dataclass(frozen=True, eq=False)
class Subschema:
    """A schema within a document. The same place is always the same object."""

    schema: bool | dict[str, Any]
    path: str
    """Where it stands, as a JSON pointer."""
    draft: Draft
    resolver: Any
    """Resolves references relative to the base URI of this place."""
    document: Document

    @property
    def is_reference(self) -> bool:
        """Whether it consists of ``$ref``, and the draft ignores everything beside it."""
        return isinstance(self.schema, dict) and self.draft.ref_is_alone and "$ref" in self.schema

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of a keyword, if it belongs to the draft."""
        if isinstance(self.schema, bool) or not self.draft.has(keyword):
            return default
        return self.schema.get(keyword, default)

    def at(self, *steps: str | int) -> Subschema:
        """The subschema below some keys and indices."""
        found: Any = self.schema
        for step in steps:
            found = found[step]
        return self.document.subschema(found, pointer(self.path, *steps), self.draft, self.resolver)

    def target(self, keyword: str) -> Subschema:
        """The subschema that a reference names; raises ``SchemaError`` if it is not in the document."""
        assert isinstance(self.schema, dict)
        reference = self.schema[keyword]
        path = f"{self.path}/{keyword}"
        try:
            found = (
                lookup_recursive_ref(self.resolver)
                if keyword == "$recursiveRef"
                else self.resolver.lookup(reference)
            )
            draft = draft_of(self.resolver.lookup(reference.partition("#")[0]).contents, self.draft)
        except (Unresolvable, ValueError):
            raise SchemaError(path, f"refers to {reference}, which is not part of the schema") from None
        contents: Any = found.contents
        self.document.check(contents, path, draft)
        place = reference if reference.startswith("#/") else f"{self.path}/{keyword}"
        return self.document.subschema(contents, place, draft, found.resolver)


class Document:
    """A schema document; knows the metaschemas of all drafts, and nothing else outside of it."""

    def __init__(self, root: bool | dict[str, Any], draft: Draft, dynamic: bool) -> None:
        self._dynamic = dynamic
        self._subschemas: dict[object, Subschema] = {}
        self.registry: Registry[Any] = jsonschema_specifications.REGISTRY
        self._checked: dict[int, object] = {}
        self.check(root, "#", draft)
        resource = Resource.from_contents(root, default_specification=draft.specification)
        resolver = self.registry.resolver_with_root(resource)
        self.root = self.subschema(root, "#", draft, resolver)

    def check(self, schema: object, path: str, draft: Draft) -> None:
        """Raise ``SchemaError`` if a schema is malformed. References may lead to any place."""
        if id(schema) in self._checked:
            return
        check_metaschema(schema, path, draft)
        todo = [schema]
        while todo:
            each = todo.pop()
            self._checked[id(each)] = each
            if isinstance(each, dict):
                todo += draft_of(each, draft).specification.subresources_of(each)

    def subschema(self, schema: JsonValue, path: str, draft: Draft, resolver: Any) -> Subschema:
        """The subschema at a place, new or known."""
        if not isinstance(schema, bool | dict):
            raise SchemaError(path, "is not a schema: write an object or a boolean", "invalid_schema")
        if isinstance(schema, dict):
            draft = draft_of(schema, draft)
        if isinstance(schema, dict) and not schema.keys().isdisjoint(("$id", "id")):
            resolver = resolver.in_subresource(draft.specification.create_resource(schema))
        # With a dynamic reference, what a place means depends on the resources on the way to it.
        scope = (
            tuple(dict.fromkeys(uri for uri, _ in [*resolver.dynamic_scope()][::-1])) if self._dynamic else ()
        )
        key = (schema, scope) if isinstance(schema, bool) else (id(schema), scope)
        if key not in self._subschemas:
            self._subschemas[key] = Subschema(schema, path, draft, resolver, self)
        return self._subschemas[key]
