"""The OpenAPI document: FastAPI's document of the routes, with OpenAI's errors and the API key."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve.api.responses.schemas import ResponsesRequest
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest
from serve.api.schemas.tokens import DetokenizeRequest, TokenizeRequest


class ErrorFields(BaseModel):
    message: str
    """What is wrong, where, and the fix."""
    type: str
    param: str | None
    """Path of the field at fault."""
    code: str | None
    """The machine-readable reason."""


class ErrorBody(BaseModel):
    """Body of every error."""

    error: ErrorFields


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 413, 415, 429, 500, 503, 504)
}

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""A server-sent event; its data is a chunk in JSON, or [DONE]."""
REFERENCE = "#/components/schemas/{model}"
BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
STREAMS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Paths that answer with a stream if the request asks for one."""
OPEN_PATHS = {"/health", "/ready"}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The body of a route for the document: FastAPI does not know it, because the route reads it itself."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def document(app: FastAPI, model: str) -> dict[str, Any]:
    """The document of the routes, with the name of the model; made once."""
    if app.openapi_schema is None:
        spec = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema([(body, "validation") for body in BODIES], ref_template=REFERENCE)
        spec["components"]["schemas"] |= bodies["$defs"]
        spec["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in spec["paths"].items():
            if path not in OPEN_PATHS:
                for operation in methods.values():
                    operation["security"] = [{"key": []}, {}]
                    operation["responses"].pop("422", None)  # FastAPI's own: errors about bodies are 400 here
        for body in BODIES:
            names = [model] if body.model_fields["model"].is_required() else [model, None]
            spec["components"]["schemas"][body.__name__]["properties"]["model"]["enum"] = names
        for path in STREAMS:
            content = spec["paths"][path]["post"]["responses"]["200"]["content"]
            content["text/event-stream"] = {"schema": EVENT}
        app.openapi_schema = spec
    return app.openapi_schema
