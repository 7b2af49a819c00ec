"""What pydantic finds wrong with a body, as one line: where, what, the fix."""

from __future__ import annotations

from fastapi.exceptions import RequestValidationError

from lladav.config_keys import nearest
from serve.api.bodies import ChatRequest, CompletionRequest
from serve.complaints import path_of
from serve.errors import ApiError

FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields})


def refusal(error: RequestValidationError) -> ApiError:
    """400 for a body that is not JSON, 422 for one whose fields are not as documented."""
    first = error.errors()[0]
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", message)
        return ApiError(400, f"body: not JSON ({reason}); send an object", code="invalid_json")
    param = path_of(first["loc"][1:], error.body, kind == "missing")
    if not param:
        message = "not an object; send JSON with Content-Type: application/json"
        return ApiError(422, f"body: {message}", code="invalid_body")
    if kind == "extra_forbidden":
        guess = nearest(param, FIELDS)
        hint = f"did you mean {guess}?" if guess else "remove it"
        return ApiError(422, f"{param}: unknown field; {hint}", code="unknown_field", param=param)
    if kind == "missing":
        return ApiError(422, f"{param}: missing; give it a value", code="missing_field", param=param)
    return ApiError(422, f"{param}: {message}", code="invalid_field", param=param)
