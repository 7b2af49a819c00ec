"""From requests to answers, whole or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from lladav.inputs.chat import ChatTokenizer
from serve.api import responses as answers
from serve.api.prompts import chat_prompt, image_references, text_prompt
from serve.api.requests import PlannedRequest, RequestPlanner
from serve.api.responses import AnswerText, ChatForm, Form, Piece, TextForm
from serve.api.schemas import ChatRequest, CompletionRequest, DecodingBody, StreamOptions
from serve.concurrency import ThreadOffloader
from serve.engine.client import Engines
from serve.engine.messages import Delta, DeltaMode, Event, Finished
from serve.errors import ApiError
from serve.media.loader import MediaLoader

LOG = logging.getLogger("ray.serve.requests")
DONE = "data: [DONE]\n\n"
UNREAD = "text and images were not read by the deadline; send less text, smaller images, or allow more time"
THREADS = 2
"""For planning requests and writing whole answers: what could block the event loop."""
UNANSWERED = "the answer was not done by its deadline; allow a larger refresh_interval or more time"


@dataclass
class PreparedRequest:
    """A request that is ready to run."""

    plan: PlannedRequest
    form: Form
    model: str
    usage: StreamOptions
    stream: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    used: dict[str, Any] | None = None
    """The usage, once its answers are done."""
    error: ApiError | None = None
    """What ended a stream that had begun."""
    first_token: Callable[[], None] = lambda: None
    """Called when the first committed text is sent."""


class Completions:
    """Answers requests with the help of engines."""

    def __init__(
        self,
        name: str,
        engines: Engines,
        planner: RequestPlanner,
        media: MediaLoader,
        tokenizer: ChatTokenizer,
    ) -> None:
        """``name`` is what the model is called."""
        self._name, self._engines, self._planner = name, engines, planner
        self._media, self._tokenizer = media, tokenizer
        self._offload = ThreadOffloader("completions", THREADS)

    async def prepare(self, request: DecodingBody) -> PreparedRequest:
        """Plan a request; raises ``ApiError``."""
        if isinstance(request, ChatRequest):
            return await self.prepare_chat(request)
        assert isinstance(request, CompletionRequest)
        return await self.prepare_text(request)

    async def prepare_chat(self, request: ChatRequest) -> PreparedRequest:
        """Plan a request, then read its images; raises ``ApiError``."""
        arrived = time.time()
        async with self._in_time(request, arrived):
            plan = await self._offload(self._plan_chat, request, arrived)
            visuals = await self._media.visuals(image_references(request.messages))
            plan = await self._offload(self._planner.with_visuals, plan, visuals)
        return self._task(request, plan, ChatForm(bool(request.logprobs)))

    async def prepare_text(self, request: CompletionRequest) -> PreparedRequest:
        """Plan a request; raises ``ApiError``."""
        arrived = time.time()
        async with self._in_time(request, arrived):
            plan = await self._offload(self._plan_text, request, arrived)
        return self._task(request, plan, TextForm())

    def _plan_chat(self, request: ChatRequest, arrived: float) -> PlannedRequest:
        self._planner.check(request)
        prompt = chat_prompt(request.messages, self._tokenizer)
        return self._planner.plan(request, prompt, _named("chatcmpl"), arrived)

    def _plan_text(self, request: CompletionRequest, arrived: float) -> PlannedRequest:
        self._planner.check(request)
        prompt = text_prompt(request.prompt, self._tokenizer)
        return self._planner.plan(request, prompt, _named("cmpl"), arrived)

    @contextlib.asynccontextmanager
    async def _in_time(self, request: DecodingBody, arrived: float) -> AsyncIterator[None]:
        with _deadline_named(UNREAD):
            async with asyncio.timeout(self._planner.deadline(request, arrived) - time.time()):
                yield

    def _task(self, request: DecodingBody, plan: PlannedRequest, form: Form) -> PreparedRequest:
        return PreparedRequest(
            plan, form, self._name, request.stream_options or StreamOptions(), bool(request.stream)
        )

    async def answer(self, task: PreparedRequest) -> bytes:
        """The body of the whole answer, in JSON; raises ``ApiError``."""
        plan = task.plan
        with _deadline_named(UNANSWERED):
            async with asyncio.timeout(_left(plan)):
                ended = await self._engines.answer(plan.job)
        task.used = answers.usage(plan, ended)
        task.first_token()
        return await self._offload(self._body, task, ended)

    def _body(self, task: PreparedRequest, ended: Sequence[Finished]) -> bytes:
        plan = task.plan
        pieces = [AnswerText(plan, self._tokenizer).end(each) for each in ended]
        choices = [answers.choice(n, task.form.whole(each), each.finish) for n, each in enumerate(pieces)]
        body = {**_head(task, task.form.object), "choices": choices, "usage": task.used}
        warnings = {"warnings": plan.warnings} if plan.warnings else {}
        return to_json({**body, **warnings})

    async def stream(self, task: PreparedRequest) -> AsyncIterator[str]:
        """The answer as server-sent events. What goes wrong before the first is raised as ``ApiError``; later
        it is an event of its own, and the last but one.
        """
        events = self._events(task)
        first = await anext(events)
        return self._server_sent(task, first, events)

    async def _server_sent(
        self, task: PreparedRequest, first: Sequence[Event], rest: AsyncIterator[list[Event]]
    ) -> AsyncIterator[str]:
        writer = _Writer(task, self._tokenizer)
        try:
            async for chunks in self._chunks(writer, first, rest):
                for chunk in chunks:
                    yield chunk
        except ApiError as error:
            task.error = error
        except Exception:
            LOG.exception("request %s failed in its stream", task.plan.job.id)
            task.error = ApiError(500, "the server failed; ask again", code="internal_error")
        finally:
            await rest.aclose()  # type: ignore[attr-defined] - a generator of ours
        if task.error is not None:
            yield _event(task.error.body)
        yield DONE

    async def _chunks(
        self, writer: _Writer, first: Sequence[Event], rest: AsyncIterator[list[Event]]
    ) -> AsyncIterator[list[str]]:
        yield list(map(_event, writer.opening()))
        yield await self._written(writer, first)
        async for events in rest:
            await asyncio.sleep(0)  # events that are there already would follow without a pause
            yield await self._written(writer, events)
        if writer.asked.include_usage:
            yield [_event(writer.closing())]

    async def _written(self, writer: _Writer, events: Sequence[Event]) -> list[str]:
        """What events add to a stream. The end of an answer may bring all of its tokens, which takes long."""
        if any(isinstance(event, Finished) for event in events):
            return await self._offload(writer.written, events)
        return writer.written(events)

    async def _events(self, task: PreparedRequest) -> AsyncIterator[list[Event]]:
        """The engine's events until the deadline; the job ends with the iterator."""
        events = self._engines.events(task.plan.job)
        try:
            with _deadline_named(UNANSWERED):
                while True:
                    async with asyncio.timeout(_left(task.plan)):
                        try:
                            found = await anext(events)
                        except StopAsyncIteration:
                            return
                    yield found
        finally:
            await events.aclose()  # type: ignore[attr-defined] - a generator of ours


class _Writer:
    """Turns events of a job into chunks."""

    def __init__(self, task: PreparedRequest, tokenizer: ChatTokenizer) -> None:
        self._task, self._tokenizer, self.asked = task, tokenizer, task.usage
        self._texts = [AnswerText(task.plan, tokenizer) for _ in range(task.plan.job.choices)]
        self._head = _head(task, task.form.chunk_object)
        self._ended: list[Finished] = []
        self._told_first = False
        self._warnings = list(task.plan.warnings)

    def opening(self) -> Iterator[dict[str, Any]]:
        """Roles, and blank canvases for those who watch."""
        part, plan = self._task.form.opening(), self._task.plan
        for number in range(len(self._texts)):
            chunk = self._chunk([] if part is None else [answers.choice(number, part)])
            if plan.job.watch is DeltaMode.denoise:
                chunk["denoise"] = answers.blank(plan, number, self._tokenizer)
            if part is not None or "denoise" in chunk:
                yield chunk

    def written(self, events: Sequence[Event]) -> list[str]:
        """What events of the engine add, as server-sent events."""
        return [_event(chunk) for chunk in self.chunks(events)]

    def chunks(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        """What events of the engine add."""
        for event in events:
            if isinstance(event, Delta):
                yield from self._progress(event)
            else:
                yield self._end(event)

    def closing(self) -> dict[str, Any]:
        """The last chunk: no choices, but what they took."""
        return {**self._head, "choices": [], "usage": self._task.used}

    def _progress(self, event: Delta) -> Iterator[dict[str, Any]]:
        piece = self._texts[event.choice].add(event)
        watched = self._task.plan.job.watch is DeltaMode.denoise
        if piece is None and not watched:
            return
        choices = [] if piece is None else [self._choice(event.choice, piece)]
        chunk = self._chunk(choices)
        if watched:
            chunk["denoise"] = answers.denoise(self._task.plan, event, self._tokenizer)
        yield chunk

    def _end(self, event: Finished) -> dict[str, Any]:
        self._ended.append(event)
        self._task.used = answers.usage(self._task.plan, self._ended)
        piece = self._texts[event.choice].end(event)
        return self._chunk([self._choice(event.choice, piece)])

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        if not self._told_first:
            self._told_first = True
            self._task.first_token()
        return answers.choice(number, self._task.form.part(piece), piece.finish)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A usage that was asked for is null until the last chunk, as OpenAI's; warnings come first."""
        asked, used = self.asked, None
        if asked.continuous_usage_stats:
            used = answers.tokens_used(self._task.plan, sum(text.count for text in self._texts))
        usage = {"usage": used} if asked.include_usage or used else {}
        warnings, self._warnings = self._warnings, []
        return {**self._head, "choices": choices, **usage, **({"warnings": warnings} if warnings else {})}


def _head(task: PreparedRequest, kind: str) -> dict[str, Any]:
    return {
        "id": task.plan.job.id,
        "object": kind,
        "created": task.created,
        "model": task.model,
        "system_fingerprint": None,
    }


def _named(kind: str) -> str:
    """An id that no other answer has, whatever a client calls its request."""
    return f"{kind}-{uuid.uuid4().hex}"


def _left(plan: PlannedRequest) -> float:
    return plan.job.deadline - time.time()


@contextlib.contextmanager
def _deadline_named(message: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ApiError(504, message, code="deadline_exceeded", param="deadline_ms") from None


def _event(body: Any) -> str:
    """In ASCII: clients in many languages take U+2028 or U+0085 for the end of a line."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
