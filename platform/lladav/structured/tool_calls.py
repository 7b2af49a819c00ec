"""Reads the functions that an answer may call, each with a JSON schema of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lladav.structured.errors import SchemaError, pointer
from lladav.structured.outlines.calls import Function, FunctionCalls
from lladav.structured.outlines.layouts import Layouts
from lladav.structured.outlines.values import ValuePart
from lladav.structured.schema.reading import read_schema

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a function without parameters."""
OPEN = frozenset(
    (
        *("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"),
        *("dependencies", "additionalProperties", "patternProperties", "unevaluatedProperties"),
        *("propertyNames", "minProperties"),
    )
)
"""Keywords that say which properties there are besides the listed ones."""


def read_functions(source: Any, layouts: Layouts) -> tuple[FunctionCalls, tuple[str, ...]]:
    """The functions of ``{"functions": [{"index", "name", "parameters"}], "parallel"}``, and warnings.

    ``index`` is the place of a function in the list of tools, which errors name. Raises ``SchemaError`` if no
    arguments of a function can be guaranteed.
    """
    functions, warnings = list[Function](), list[str]()
    for each in source["functions"]:
        path = pointer("#", each["index"], "function", "parameters")
        try:
            schema = read_schema(arguments_schema(each["parameters"]), layouts.slots.automata.budget)
            if not layouts.cost(schema.root).possible:
                raise layouts.error(schema.root)
        except SchemaError as error:
            raise SchemaError(path + error.path.removeprefix("#"), error.reason, error.code) from None
        functions.append(Function(each["name"], schema.root))
        warnings += [f"{each['name']}: {line}" for line in schema.warnings]
    return FunctionCalls(functions, layouts, source["parallel"]), tuple(warnings)


def read_answer(source: Any, layouts: Layouts) -> ValuePart | None:
    """The value that an answer may be instead of calls, if the source has a schema ``answer``.

    Raises ``SchemaError`` if no value can be guaranteed.
    """
    if source.get("answer") is None:
        return None
    root = read_schema(source["answer"], layouts.slots.automata.budget).root
    if not layouts.cost(root).possible:
        raise layouts.error(root)
    return ValuePart(root, layouts)


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of the arguments of a function: always an object.

    Unless the schema says otherwise, there are no arguments besides the listed ones: a call with others fails
    in most programs.
    """
    if parameters is None:
        return NO_ARGUMENTS
    if parameters.get("type", "object") != "object":
        raise SchemaError("#/type", "is not object, which arguments are", "invalid_schema")
    schema = dict(parameters)
    if "$ref" not in schema:
        schema["type"] = "object"
    listed = schema.get("properties")
    if isinstance(listed, dict) and not OPEN & schema.keys() and _lists(listed, schema.get("required", [])):
        schema["additionalProperties"] = False
    return schema


def _lists(properties: Mapping[str, Any], required: Any) -> bool:
    """Whether all required properties are listed."""
    return isinstance(required, list) and all(
        name in properties for name in required if isinstance(name, str)
    )
