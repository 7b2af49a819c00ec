"""All keywords that assert something, and the formula of a subschema."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from lladav.structured.schema.formulas import FALSE, TRUE, Formula
from lladav.structured.schema.json_values import JsonType
from lladav.structured.schema.keywords import arrays, constants, logic, objects, scalars
from lladav.structured.schema.subschemas import Subschema

Reading: TypeAlias = Callable[[Subschema, JsonType], Formula]
_EVERY_TYPE: dict[str, Reading] = {
    "$ref": logic.reference("$ref"),
    "$dynamicRef": logic.reference("$dynamicRef"),
    "$recursiveRef": logic.reference("$recursiveRef"),
    "type": constants.type_keyword,
    "enum": constants.enum,
    "const": constants.const,
    "allOf": logic.all_of,
    "anyOf": logic.any_of,
    "oneOf": logic.one_of,
    "not": logic.not_keyword,
    "if": logic.if_keyword,
}
_BY_TYPE: dict[JsonType, dict[str, Reading]] = {
    JsonType.NULL: {},
    JsonType.BOOLEAN: {},
    JsonType.STRING: {
        "minLength": scalars.min_length,
        "maxLength": scalars.max_length,
        "pattern": scalars.pattern,
        "format": scalars.format_keyword,
        "contentEncoding": scalars.content_encoding,
        "contentMediaType": scalars.content_media_type,
    },
    JsonType.NUMBER: {
        "minimum": scalars.minimum,
        "maximum": scalars.maximum,
        "exclusiveMinimum": scalars.exclusive_minimum,
        "exclusiveMaximum": scalars.exclusive_maximum,
        "multipleOf": scalars.multiple_of,
    },
    JsonType.ARRAY: {
        **dict.fromkeys(("items", "prefixItems", "additionalItems"), arrays.items),
        "minItems": arrays.min_items,
        "maxItems": arrays.max_items,
        "uniqueItems": arrays.unique_items,
        "contains": arrays.contains,
        "unevaluatedItems": arrays.unevaluated_items,
    },
    JsonType.OBJECT: {
        **dict.fromkeys(("properties", "patternProperties", "additionalProperties"), objects.properties),
        "required": objects.required,
        "minProperties": objects.min_properties,
        "maxProperties": objects.max_properties,
        "propertyNames": objects.property_names,
        "dependencies": objects.dependencies,
        "dependentRequired": objects.dependent_required,
        "dependentSchemas": objects.dependent_schemas,
        "unevaluatedProperties": objects.unevaluated_properties,
    },
}
READINGS = {kind: {**_EVERY_TYPE, **own} for kind, own in _BY_TYPE.items()}


def formula(subschema: Subschema, kind: JsonType) -> Formula:
    """What a subschema says about values of a type, in the order of its keywords."""
    if isinstance(subschema.schema, bool):
        return TRUE if subschema.schema else FALSE
    known = READINGS[kind]
    if subschema.is_reference:
        return known["$ref"](subschema, kind)
    present = (known[each] for each in subschema.schema if each in known and subschema.draft.has(each))
    return tuple(item for reading in dict.fromkeys(present) for item in reading(subschema, kind))
