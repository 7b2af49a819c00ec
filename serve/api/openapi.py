"""The OpenAPI document: what FastAPI derives from the routes, with OpenAI's errors and the key."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve.api.schemas import ChatRequest, CompletionRequest, DecodingBody


class Fault(BaseModel):
    message: str
    """What is wrong, where, and the fix."""
    type: str
    param: str | None
    """Path of the field at fault."""
    code: str | None
    """The reason, for programs."""


class ErrorBody(BaseModel):
    """Body of every error."""

    error: Fault


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 413, 422, 429, 500, 503, 504)
}

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""A server-sent event; its data is a chunk in JSON, or [DONE]."""
REFERENCE = "#/components/schemas/{model}"
BODIES: tuple[type[DecodingBody], ...] = (ChatRequest, CompletionRequest)
OPEN_PATHS = {"/health", "/ready"}


def body_of(model: type[DecodingBody]) -> dict[str, Any]:
    """A route's body, for its part of the document: the route reads it itself."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def document(app: FastAPI, model: str) -> dict[str, Any]:
    """The document of the routes, with the name of the one model there is; made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema([(body, "validation") for body in BODIES], ref_template=REFERENCE)
        made["components"]["schemas"] |= bodies["$defs"]
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            if path not in OPEN_PATHS:
                for operation in methods.values():
                    operation["security"] = [{"key": []}, {}]
        for body in BODIES:
            made["components"]["schemas"][body.__name__]["properties"]["model"]["enum"] = [model]
        for path in ("/v1/chat/completions", "/v1/completions"):
            content = made["paths"][path]["post"]["responses"]["200"]["content"]
            content["text/event-stream"] = {"schema": EVENT}
        app.openapi_schema = made
    return app.openapi_schema
