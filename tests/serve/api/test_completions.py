"""Reading a request's images is a part of answering it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable

import pytest
from starlette.types import Message

from serve.api.completions import Completions
from serve.api.middleware import CLIENT_CLOSED_REQUEST
from serve.api.routes import Service, web_app
from serve.api.schemas import ChatRequest
from serve.auth.keys import Gate
from serve.errors import ApiError
from serve.ingress import completions_of
from serve.media.loader import MediaLoader
from serve.ops.metrics import IngressMetrics
from serve.settings import ServeSettings
from tests.lladav.build import tiny_config
from tests.serve.apis import NAME, LocalEngines
from tests.serve.asgi import PATIENCE, ask, parts, until
from tests.serve.images import encoded, sample_image, uri

IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}
Messages = Iterable[Message] | AsyncIterator[Message]
MESSAGES = [{"role": "user", "content": [IMAGE]}]


def request(**given: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": NAME, "messages": MESSAGES, **given})


def test_the_deadline_counts_while_a_decoder_is_waited_for(
    served: ServeSettings, engines: LocalEngines
) -> None:
    async def with_all_decoders_busy() -> None:
        completions = completions_of(served, engines)
        slots = completions._media._pool._semaphore
        for _ in range(served.media.workers):
            await slots.acquire()
        async with asyncio.timeout(20):
            await completions.prepare_chat(request(deadline_ms=100))

    since = time.monotonic()
    with pytest.raises(ApiError, match="images were not read") as late:
        asyncio.run(with_all_decoders_busy())
    assert (late.value.status, late.value.code) == (504, "deadline_exceeded")
    assert time.monotonic() - since >= 0.1


def test_images_count_as_a_part_of_the_prompt(served: ServeSettings, engines: LocalEngines) -> None:
    def tokens(text: str, *images: object) -> int:
        content = [*images, {"type": "text", "text": text}]
        asked = request(messages=[{"role": "user", "content": content}], max_tokens=8)
        return asyncio.run(completions_of(served, engines).prepare_chat(asked)).plan.job.prompt_tokens

    longest = tiny_config().language.max_positions - 8
    whole = "x" * (1 + longest - tokens("x"))
    assert tokens(whole) == longest
    assert tokens("x", IMAGE) > tokens("x")
    with pytest.raises(ApiError, match="shorten") as refused:
        tokens(whole, IMAGE)
    assert refused.value.code == "context_length_exceeded"


async def web_with(served: ServeSettings, completions: Completions, request: Messages) -> int:
    """The status of a request, asked of a web application in this event loop."""

    async def ready() -> bool:
        return True

    app = web_app(Service(served, completions, Gate(served), IngressMetrics(served.name), ready))
    return (await ask(app, "/v1/chat/completions", request)).status


def test_a_client_that_leaves_while_its_images_wait_is_noticed(
    served: ServeSettings, engines: LocalEngines
) -> None:
    async def leaves() -> int:
        completions, gone = completions_of(served, engines), asyncio.Event()
        slots = completions._media._pool._semaphore
        for _ in range(served.media.workers):
            await slots.acquire()

        async def messages() -> AsyncIterator[Message]:
            for part in parts(json.dumps({"model": NAME, "messages": MESSAGES}).encode()):
                yield part
            await gone.wait()
            yield {"type": "http.disconnect"}

        asked = asyncio.create_task(web_with(served, completions, messages()))
        await until(lambda: bool(slots._waiters))
        gone.set()
        status = await asyncio.wait_for(asked, PATIENCE)
        assert not slots._waiters
        return status

    assert asyncio.run(leaves()) == CLIENT_CLOSED_REQUEST


def test_the_decoding_of_an_image_ends_when_the_client_leaves(
    served: ServeSettings, engines: LocalEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def visuals(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(MediaLoader, "visuals", visuals)

    async def messages() -> AsyncIterator[Message]:
        for part in parts(json.dumps({"model": NAME, "messages": MESSAGES}).encode()):
            yield part
        await begun.wait()
        yield {"type": "http.disconnect"}

    async def leaves() -> None:
        assert await web_with(served, completions_of(served, engines), messages()) == CLIENT_CLOSED_REQUEST
        await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(leaves())
