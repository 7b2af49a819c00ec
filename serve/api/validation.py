"""What pydantic finds wrong with a body, as one line: where, what, the fix."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from lladav.config.introspection import nearest
from serve.api.schemas import ChatRequest, CompletionRequest
from serve.errors import ApiError
from serve.validation_errors import path_of

FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields})
LONGEST = 100
"""Characters of a field that is compared with those that exist: comparing a long one takes seconds."""


def body_error(error: ValidationError, body: Any) -> ApiError:
    """422 for a body whose fields are not as documented."""
    first = error.errors(include_url=False)[0]
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    param = path_of(first["loc"], body, kind == "missing")
    if not first["loc"] and not isinstance(body, dict):
        return not_an_object()
    if kind == "extra_forbidden":
        guess = nearest(param[:LONGEST], FIELDS)
        hint = f"did you mean {guess}?" if guess else "remove it"
        return ApiError(422, f"{param[:LONGEST]}: unknown field; {hint}", code="unknown_field", param=param)
    if kind == "missing":
        return ApiError(422, f"{param}: missing; give it a value", code="missing_field", param=param)
    return ApiError(422, f"{param or 'body'}: {message}", code="invalid_field", param=param or None)


def not_an_object() -> ApiError:
    """422 for a body that is no object of JSON."""
    message = "body: not an object; send JSON with Content-Type: application/json"
    return ApiError(422, message, code="invalid_body")
