"""From requests to answers: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic_core import to_json

from lladav.inputs.chat import ChatTokenizer
from serve.api.answers.response_forms import usage
from serve.api.planning.planner import PreparedRequest, RequestPlanner
from serve.api.planning.prompts import media_references
from serve.api.schemas.completion_requests import ChatRequest, DecodingBody
from serve.api.transport.context import AnswerObserver, RequestContext
from serve.concurrency import ThreadOffloader
from serve.engine.batches import answer_all, events_of_all
from serve.engine.client import Engines
from serve.engine.messages import Event, Finished
from serve.errors import ApiError
from serve.media.loader import MediaLoader
from serve.settings import KeySettings

LOG = logging.getLogger("ray.serve.requests")
THREADS = 2
"""Threads for work that could block the event loop: preparing requests and writing whole answers. As many
threads compile structures, which may take seconds."""
UNREAD = "text and images were not read by the deadline; send less text, smaller images, or allow more time"
UNANSWERED = "the answer was not done by its deadline; allow a larger refresh_interval or more time"


class AnswerWriter(Protocol):
    """Writes the answers to one request in the form of its endpoint."""

    usage: dict[str, Any] | None
    """Of a stream: usage of the answers that are finished so far."""

    def body(self, finished: Sequence[Finished], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a response that is no stream."""
        ...

    def opening(self) -> Iterable[str]:
        """Server-sent events before the first text."""
        ...

    def chunks(self, events: Sequence[Event]) -> Iterable[str]:
        """Server-sent events that engine events add."""
        ...

    def closing(self) -> Iterable[str]:
        """The last server-sent events."""
        ...

    def failed(self, error: ApiError) -> Iterable[str]:
        """The last server-sent events if the request fails."""
        ...


class MakeWriter(Protocol):
    """Makes the writer of a request."""

    def __call__(
        self, prepared: PreparedRequest, tokenizer: ChatTokenizer, context: AnswerObserver
    ) -> AnswerWriter: ...


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
                requested = await self._offload(self._planner.check, body, key)
                structure = requested and await self._compile(self._planner.structure, requested, body, key)
                prepared = await self._offload(self._planner.prepare, body, key, deadline, structure)
                if isinstance(body, ChatRequest) and (media := media_references(body.messages)):
                    visuals = await self._media.visuals(media, self._planner.frames(body))
                    prepared = await self._offload(self._planner.with_visuals, prepared, visuals)
        return prepared

    async def prompt_ids(self, body: DecodingBody, key: KeySettings | None) -> list[int]:
        """Token ids of the prompt of a request without images; raises ``ApiError``."""
        await self._offload(self._planner.check, body, key)
        return await self._offload(self._planner.prompt_ids, body)

    async def answer(self, prepared: PreparedRequest, context: AnswerObserver, writer: MakeWriter) -> bytes:
        """The JSON body of the whole answer; raises ``ApiError``."""
        with _deadline_error(UNANSWERED):
            async with asyncio.timeout(_seconds_left(prepared)):
                finished = await answer_all(self._engines, prepared.engine_requests)
        context.first_token()
        used = usage(prepared, finished)
        made = writer(prepared, self._tokenizer, context)
        body = await self._offload(lambda: to_json(made.body(finished, used)))
        context.answered(used)
        return body

    async def stream(
        self, prepared: PreparedRequest, context: RequestContext, writer: MakeWriter
    ) -> AsyncGenerator[str, None]:
        """The answer as server-sent events.

        Returns when there is a first event. An error before that is raised as ``ApiError``; a later one ends
        the stream.
        """
        events = self._events(prepared)
        first = await anext(events)
        return self._server_sent(writer(prepared, self._tokenizer, context), context, first, events)

    async def _events(self, prepared: PreparedRequest) -> AsyncGenerator[list[Event], None]:
        events = events_of_all(self._engines, prepared.engine_requests)
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
        writer: AnswerWriter,
        context: RequestContext,
        first: Sequence[Event],
        rest: AsyncGenerator[list[Event], None],
    ) -> AsyncGenerator[str, None]:
        error = None
        try:
            async for chunks in self._chunks(writer, first, rest):
                for chunk in chunks:
                    yield chunk
        except ApiError as raised:
            error = raised
        except Exception:
            LOG.exception("request %s failed in its stream", context.id)
            error = ApiError(500, "the server failed; ask again", code="internal_error")
        finally:
            await rest.aclose()
            if error is not None:
                context.failed(error)
            if writer.usage is not None:
                context.answered(writer.usage)
        for chunk in () if error is None else writer.failed(error):
            yield chunk

    async def _chunks(
        self, writer: AnswerWriter, first: Sequence[Event], rest: AsyncIterator[list[Event]]
    ) -> AsyncIterator[list[str]]:
        yield list(writer.opening())
        yield await self._written(writer, first)
        async for events in rest:
            await asyncio.sleep(0)  # queued events would follow without giving other tasks a turn
            yield await self._written(writer, events)
        yield list(writer.closing())

    async def _written(self, writer: AnswerWriter, events: Sequence[Event]) -> list[str]:
        """Server-sent events that engine events add to a stream."""
        if any(isinstance(event, Finished) for event in events):
            # it may hold all tokens of an answer, which takes long
            return await self._offload(lambda: list(writer.chunks(events)))
        return list(writer.chunks(events))


def _seconds_left(prepared: PreparedRequest) -> float:
    return prepared.deadline - time.time()


@contextlib.contextmanager
def _deadline_error(message: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ApiError(504, message, code="deadline_exceeded", param="deadline_ms") from None
