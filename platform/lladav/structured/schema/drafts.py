"""The drafts of JSON Schema: their keywords and how they read references."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema_rs
import jsonschema_specifications
from referencing import Specification
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT201909, DRAFT202012

from lladav.structured.errors import SchemaError, pointer

ANNOTATIONS = frozenset(
    "title description default examples readOnly writeOnly deprecated contentMediaType contentEncoding "
    "contentSchema $comment $schema $id $defs definitions $anchor $dynamicAnchor $recursiveAnchor "
    "$vocabulary".split()
)
"""Keywords that assert nothing and need no warning, in every draft."""
MAX_REASON = 200
"""Characters of an error of a metaschema."""
_DRAFT4 = frozenset(
    "$ref type enum allOf anyOf oneOf not properties patternProperties additionalProperties required "
    "minProperties maxProperties dependencies items additionalItems minItems maxItems uniqueItems minLength "
    "maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()
)
_CONTENT = {"contentEncoding", "contentMediaType"}
"""Keywords that some validators assert in drafts 6 and 7; annotations since."""
_DRAFT6 = _DRAFT4 | {"const", "contains", "propertyNames", *_CONTENT}
_DRAFT7 = _DRAFT6 | {"if", "then", "else"}
_NEW_IN_2019 = (
    "dependentRequired dependentSchemas minContains maxContains unevaluatedItems unevaluatedProperties"
)
_DRAFT2019 = _DRAFT7 - _CONTENT | {*_NEW_IN_2019.split(), "$recursiveRef"}
_DRAFT2020 = _DRAFT2019 - {"additionalItems", "$recursiveRef"} | {"prefixItems", "$dynamicRef"}


@dataclass(frozen=True)
class Draft:
    """One draft of JSON Schema."""

    uri: str
    specification: Specification[Any]
    assertions: frozenset[str]
    """Keywords that can make a value invalid."""
    ref_is_alone: bool
    """Whether keywords beside ``$ref`` are ignored."""

    def has(self, keyword: str) -> bool:
        return keyword in self.assertions


LATEST = Draft("https://json-schema.org/draft/2020-12/schema", DRAFT202012, _DRAFT2020, False)
DRAFTS = {
    draft.uri: draft
    for draft in (
        Draft("http://json-schema.org/draft-04/schema", DRAFT4, _DRAFT4, True),
        Draft("http://json-schema.org/draft-06/schema", DRAFT6, _DRAFT6, True),
        Draft("http://json-schema.org/draft-07/schema", DRAFT7, _DRAFT7, True),
        Draft("https://json-schema.org/draft/2019-09/schema", DRAFT201909, _DRAFT2019, False),
        LATEST,
    )
}


def draft_of(schema: object, default: Draft = LATEST) -> Draft:
    """The draft that ``$schema`` names; the default if it names none of them."""
    uri = schema.get("$schema") if isinstance(schema, dict) else None
    return DRAFTS.get(uri.rstrip("#"), default) if isinstance(uri, str) else default


def check_metaschema(schema: object, path: str, draft: Draft) -> None:
    """Raise ``SchemaError`` if a schema is malformed."""
    error = next(_validator(draft.uri).iter_errors(schema), None)
    if error is not None:
        place = pointer(path, *error.instance_path)
        raise SchemaError(place, f"is malformed: {error.message[:MAX_REASON]}", "invalid_schema")


@lru_cache
def _validator(uri: str) -> Any:
    metaschema: Any = jsonschema_specifications.REGISTRY.contents(uri)
    return jsonschema_rs.validator_for(metaschema)
