"""Errors about the body of a request: where, what, the fix."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from lladav.config.introspection import nearest
from serve.errors import ApiError
from serve.validation_errors import first_error

MAX_NAME = 100
"""Characters of an unknown field's name that are compared with known fields: a long name takes seconds."""


def body_error(error: ValidationError, body: Any, kind: type[BaseModel]) -> ApiError:
    """The error 400 for a body that does not validate as its kind."""
    if not isinstance(body, dict):
        return not_an_object()
    first = first_error(error, body)
    if first.unknown:
        name = first.path[:MAX_NAME]
        guess = nearest(name, sorted(kind.model_fields))
        hint = f"did you mean {guess}?" if guess else "remove it"
        return ApiError(400, f"{name}: unknown field; {hint}", code="unknown_field", param=first.path)
    if first.missing:
        message = f"{first.path}: missing; give it a value"
        return ApiError(400, message, code="missing_field", param=first.path)
    message = f"{first.path or 'body'}: {first.message}"
    return ApiError(400, message, code="invalid_field", param=first.path or None)


def not_an_object() -> ApiError:
    """The error 400 for a body that is not a JSON object."""
    message = "body: not an object; send JSON with Content-Type: application/json"
    return ApiError(400, message, code="invalid_body")
