"""From requests to answers: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

from pydantic_core import to_json

from lladav.inputs.chat import ChatTokenizer
from serve.api import response_forms as responses
from serve.api.canvas_view import CanvasView
from serve.api.context import RequestContext
from serve.api.planner import PreparedRequest, RequestPlanner
from serve.api.prompts import media_references
from serve.api.response_forms import AnswerText, Piece, form_of
from serve.api.schemas import ChatRequest, DecodingBody
from serve.concurrency import ThreadOffloader
from serve.engine.client import Engines
from serve.engine.messages import Delta, Event, Finished, StreamMode
from serve.errors import ApiError
from serve.media.loader import MediaLoader
from serve.settings import KeySettings

LOG = logging.getLogger("ray.serve.requests")
DONE = "data: [DONE]\n\n"
THREADS = 2
"""Threads for work that could block the event loop: preparing requests and writing whole answers. As many
threads compile structures, which may take seconds."""
UNREAD = "text and images were not read by the deadline; send less text, smaller images, or allow more time"
UNANSWERED = "the answer was not done by its deadline; allow a larger refresh_interval or more time"


class Completions:
    """Answers requests through the engines."""

    def __init__(
        self, engines: Engines, planner: RequestPlanner, media: MediaLoader, tokenizer: ChatTokenizer
    ) -> None:
        self._engines, self._planner = engines, planner
        self._media, self._tokenizer = media, tokenizer
        self._offload = ThreadOffloader("completions", THREADS)
        self._compile = ThreadOffloader("structures", THREADS)

    async def prepare(self, body: DecodingBody, key: KeySettings | None) -> PreparedRequest:
        """Check and prepare a request, then read its images; raises ``ApiError``."""
        deadline = self._planner.deadline(body, time.time())
        with _deadline_error(UNREAD):
            async with asyncio.timeout(deadline - time.time()):
                await self._offload(self._planner.check, body, key)
                structure = await self._compile(self._planner.structure, body, key)
                prepared = await self._offload(self._planner.prepare, body, key, deadline, structure)
                if isinstance(body, ChatRequest) and (media := media_references(body.messages)):
                    visuals = await self._media.visuals(media, self._planner.frames(body))
                    prepared = await self._offload(self._planner.with_visuals, prepared, visuals)
        return prepared

    async def answer(self, prepared: PreparedRequest, context: RequestContext) -> bytes:
        """The JSON body of the whole answer; raises ``ApiError``."""
        with _deadline_error(UNANSWERED):
            async with asyncio.timeout(_seconds_left(prepared)):
                finished = await self._engines.answer(prepared.engine_request)
        context.first_token()
        usage = responses.usage(prepared, finished)
        body = await self._offload(self._body, prepared, finished, usage)
        context.answered(usage)
        return body

    def _body(self, prepared: PreparedRequest, finished: Sequence[Finished], usage: dict[str, Any]) -> bytes:
        form = form_of(prepared)
        pieces = [AnswerText(prepared, self._tokenizer).end(each) for each in finished]
        choices = [responses.choice(n, form.whole(each), each.finish) for n, each in enumerate(pieces)]
        warnings = {"warnings": prepared.warnings} if prepared.warnings else {}
        return to_json({**_head(prepared, form.object), "choices": choices, "usage": usage, **warnings})

    async def stream(self, prepared: PreparedRequest, context: RequestContext) -> AsyncGenerator[str, None]:
        """The answer as server-sent events.

        Returns when there is a first event. An error before that is raised as ``ApiError``; a later one is
        the last event before ``[DONE]``.
        """
        events = self._events(prepared)
        first = await anext(events)
        return self._server_sent(prepared, context, first, events)

    async def _events(self, prepared: PreparedRequest) -> AsyncGenerator[list[Event], None]:
        """Events of the engine until the deadline; closing the generator cancels the request."""
        events = self._engines.events(prepared.engine_request)
        try:
            with _deadline_error(UNANSWERED):
                while True:
                    async with asyncio.timeout(_seconds_left(prepared)):
                        try:
                            received = await anext(events)
                        except StopAsyncIteration:
                            return
                    yield received
        finally:
            await events.aclose()

    async def _server_sent(
        self,
        prepared: PreparedRequest,
        context: RequestContext,
        first: Sequence[Event],
        rest: AsyncGenerator[list[Event], None],
    ) -> AsyncGenerator[str, None]:
        writer, error = StreamWriter(prepared, self._tokenizer, context), None
        try:
            async for chunks in self._chunks(writer, first, rest):
                for chunk in chunks:
                    yield chunk
        except ApiError as raised:
            error = raised
        except Exception:
            LOG.exception("request %s failed in its stream", prepared.engine_request.id)
            error = ApiError(500, "the server failed; ask again", code="internal_error")
        finally:
            await rest.aclose()
            if error is not None:
                context.failed(error)
            if writer.usage is not None:
                context.answered(writer.usage)
        if error is not None:
            yield _server_sent_event(error.body)
        yield DONE

    async def _chunks(
        self, writer: StreamWriter, first: Sequence[Event], rest: AsyncIterator[list[Event]]
    ) -> AsyncIterator[list[str]]:
        yield list(map(_server_sent_event, writer.opening()))
        yield await self._written(writer, first)
        async for events in rest:
            await asyncio.sleep(0)  # queued events would follow without giving other tasks a turn
            yield await self._written(writer, events)
        yield list(map(_server_sent_event, writer.closing()))

    async def _written(self, writer: StreamWriter, events: Sequence[Event]) -> list[str]:
        """Server-sent events that engine events add to a stream."""

        def written() -> list[str]:
            return [_server_sent_event(chunk) for chunk in writer.chunks(events)]

        if any(isinstance(event, Finished) for event in events):
            return await self._offload(written)  # it may hold all tokens of an answer, which takes long
        return written()


class StreamWriter:
    """Turns engine events into chunks of a stream."""

    def __init__(self, prepared: PreparedRequest, tokenizer: ChatTokenizer, context: RequestContext) -> None:
        self._prepared, self._context = prepared, context
        self._form = form_of(prepared)
        choices = range(prepared.engine_request.choices)
        self._texts = [AnswerText(prepared, tokenizer) for _ in choices]
        self._denoise = prepared.engine_request.stream_mode is StreamMode.denoise
        self._canvases = [CanvasView(prepared, number, tokenizer) for number in choices if self._denoise]
        self._finished: list[Finished] = []
        self._first_token_sent = False
        self._warnings = list(prepared.warnings)
        self.usage: dict[str, Any] | None = None
        """Usage of the answers that are finished so far."""

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks with the role of each choice and, if every step is streamed, its blank canvas."""
        part = self._form.opening()
        for number in range(len(self._texts)):
            chunk = self._chunk([] if part is None else [responses.choice(number, part)])
            if self._denoise:
                chunk["denoise"] = self._canvases[number].blank()
            if part is not None or self._denoise:
                yield chunk

    def chunks(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        """Chunks that engine events add."""
        for event in events:
            if isinstance(event, Delta):
                yield from self._delta(event)
            else:
                self._finished.append(event)
                self.usage = responses.usage(self._prepared, self._finished)
                yield self._chunk([self._choice(event.choice, self._texts[event.choice].end(event))])

    def closing(self) -> Iterator[dict[str, Any]]:
        """The last chunk, with the usage and no choices, if the request asks for it."""
        if self._prepared.stream_options.include_usage:
            yield {**_head(self._prepared, self._form.chunk_object), "choices": [], "usage": self.usage}

    def _delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        piece = self._texts[delta.choice].add(delta)
        if piece is None and not self._denoise:
            return
        chunk = self._chunk([] if piece is None else [self._choice(delta.choice, piece)])
        if self._denoise:
            chunk["denoise"] = self._canvases[delta.choice].step(delta)
        yield chunk

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        if not self._first_token_sent:
            self._first_token_sent = True
            self._context.first_token()
        return responses.choice(number, self._form.part(piece), piece.finish)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A chunk. As with OpenAI, a requested usage is null until the last chunk; the first has warnings."""
        options, used = self._prepared.stream_options, None
        if options.continuous_usage_stats:
            used = responses.token_counts(self._prepared, sum(text.count for text in self._texts))
        usage = {"usage": used} if options.include_usage or used else {}
        warnings, self._warnings = self._warnings, []
        head = _head(self._prepared, self._form.chunk_object)
        return {**head, "choices": choices, **usage, **({"warnings": warnings} if warnings else {})}


def _head(prepared: PreparedRequest, kind: str) -> dict[str, Any]:
    return {
        "id": prepared.engine_request.id,
        "object": kind,
        "created": prepared.created,
        "model": prepared.model,
        "system_fingerprint": None,
    }


def _seconds_left(prepared: PreparedRequest) -> float:
    return prepared.engine_request.deadline - time.time()


@contextlib.contextmanager
def _deadline_error(message: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ApiError(504, message, code="deadline_exceeded", param="deadline_ms") from None


def _server_sent_event(body: Any) -> str:
    # ASCII only: clients in many languages take U+2028 or U+0085 for the end of a line
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
