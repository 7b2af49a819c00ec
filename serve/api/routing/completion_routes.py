"""The routes that answer: chat completions, text completions and responses, which share all of their way.

A route reads its own body, which becomes a chat or text request, and has its own writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from serve.api.answers.choice_writing import ChoicesWriter
from serve.api.answers.completions import MakeWriter
from serve.api.planning.planner import PreparedRequest
from serve.api.responses.schemas import ResponsesRequest
from serve.api.responses.translation import chat_request, conversation_of
from serve.api.responses.writing import ResponsesWriter, repeated_fields
from serve.api.routing.openapi import ERRORS, body_of
from serve.api.routing.service import Service
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody
from serve.api.transport.body_reading import BodyReader
from serve.api.transport.context import RequestContext
from serve.api.transport.middleware import CLIENT_CLOSED_REQUEST
from serve.errors import ApiError

T = TypeVar("T")
Kind = TypeVar("Kind", bound=BaseModel)
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Ask proxies not to buffer events."""


@dataclass(frozen=True)
class AskedFor:
    """What a body asks for."""

    body: DecodingBody
    writer: MakeWriter = ChoicesWriter
    renamed: Callable[[ApiError], ApiError] = lambda error: error
    """Makes an error about ``body`` one about the body that was sent."""


def response_asked(body: ResponsesRequest) -> AskedFor:
    """The chat request for a response; raises ``ApiError``."""
    conversation = conversation_of(body)
    writer = partial(ResponsesWriter, repeated_fields(body))
    return AskedFor(chat_request(body, conversation), writer, conversation.renamed)


def add_completions(app: FastAPI, service: Service, reader: BodyReader) -> None:
    """Add ``/v1/chat/completions``, ``/v1/completions`` and ``/v1/responses``."""
    shared: dict[str, Any] = {"responses": ERRORS, "response_model": None, "tags": ["completions"]}

    async def prepared(context: RequestContext, asked: AskedFor) -> tuple[PreparedRequest, MakeWriter]:
        """The prepared request and its writer, without the parsed body, so that its images are freed."""
        try:
            return await service.completions.prepare(asked.body, context.key), asked.writer
        except ApiError as error:
            raise asked.renamed(error) from None

    async def answer(request: Request, kind: type[Kind], read: Callable[[Kind], AskedFor]) -> Response:
        """The whole answer, or a stream that has its first event."""
        context = RequestContext.of(request)
        ready, writer = await prepared(context, await reader.of(request, kind, read))
        context.release_body()
        context.notes["answer"] = ready.id
        if ready.stream:
            events = await service.completions.stream(ready, context, writer)
            return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
        body = await service.completions.answer(ready, context, writer)
        return Response(body, media_type="application/json")

    @app.post("/v1/chat/completions", **shared, openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        """The next message of a conversation about text and images."""
        return await _unless_disconnected(request, answer(request, ChatRequest, AskedFor))

    @app.post("/v1/completions", **shared, openapi_extra=body_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Text that continues a prompt, or that fills the gap before a suffix."""
        return await _unless_disconnected(request, answer(request, CompletionRequest, AskedFor))

    @app.post("/v1/responses", **shared, openapi_extra=body_of(ResponsesRequest))
    async def respond(request: Request) -> Response:
        """The answer to a conversation, in the form of OpenAI's Responses API."""
        return await _unless_disconnected(request, answer(request, ResponsesRequest, response_asked))


async def _unless_disconnected(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. It is cancelled if the client disconnects: not every server does that."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(coroutine), asyncio.create_task(disconnect())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_CLOSED_REQUEST, "the client went away", code="disconnected")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
