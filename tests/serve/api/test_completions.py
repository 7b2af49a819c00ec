"""Reading a request's images is a part of answering it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable

import pytest
from starlette.types import Message

from serve.api.routing.routes import web_app
from serve.api.routing.service import Service
from serve.api.schemas.completion_requests import ChatRequest
from serve.api.transport.middleware import CLIENT_CLOSED_REQUEST
from serve.errors import ApiError
from serve.ingress import service_of
from serve.media.loader import MediaLoader
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


def test_the_deadline_applies_while_a_request_waits_for_a_decoder(
    served: ServeSettings, engines: LocalEngines
) -> None:
    async def with_all_decoders_busy() -> None:
        completions = service(served, engines).completions
        slots = completions._media._image_workers._semaphore
        for _ in range(served.media.workers):
            await slots.acquire()
        async with asyncio.timeout(20):
            await completions.prepare(request(deadline_ms=100), None)

    since = time.monotonic()
    with pytest.raises(ApiError, match="images were not read") as late:
        asyncio.run(with_all_decoders_busy())
    assert (late.value.status, late.value.code) == (504, "deadline_exceeded")
    assert time.monotonic() - since >= 0.1


def test_images_count_as_a_part_of_the_prompt(served: ServeSettings, engines: LocalEngines) -> None:
    def tokens(text: str, *images: object) -> int:
        content = [*images, {"type": "text", "text": text}]
        asked = request(messages=[{"role": "user", "content": content}], max_tokens=8)
        prepared = asyncio.run(service(served, engines).completions.prepare(asked, None))
        return prepared.prompt_tokens

    longest = tiny_config().language.max_positions - 8
    whole = "x" * (1 + longest - tokens("x"))
    assert tokens(whole) == longest
    assert tokens("x", IMAGE) > tokens("x")
    with pytest.raises(ApiError, match="shorten") as refused:
        tokens(whole, IMAGE)
    assert refused.value.code == "context_length_exceeded"


def service(settings: ServeSettings, engines: LocalEngines) -> Service:
    async def ready() -> bool:
        return True

    return service_of(settings, engines, ready)


async def status_of(service: Service, request: Messages) -> int:
    """The status of a request to a web application in this event loop."""
    return (await ask(web_app(service), "/v1/chat/completions", request)).status


def test_a_disconnect_is_noticed_while_images_wait(served: ServeSettings, engines: LocalEngines) -> None:
    async def leaves() -> int:
        made, gone = service(served, engines), asyncio.Event()
        slots = made.completions._media._image_workers._semaphore
        for _ in range(served.media.workers):
            await slots.acquire()

        async def messages() -> AsyncIterator[Message]:
            for part in parts(json.dumps({"model": NAME, "messages": MESSAGES}).encode()):
                yield part
            await gone.wait()
            yield {"type": "http.disconnect"}

        asked = asyncio.create_task(status_of(made, messages()))
        await until(lambda: bool(slots._waiters))
        gone.set()
        status = await asyncio.wait_for(asked, PATIENCE)
        assert not slots._waiters
        return status

    assert asyncio.run(leaves()) == CLIENT_CLOSED_REQUEST


def test_decoding_an_image_ends_when_the_client_disconnects(
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
        assert await status_of(service(served, engines), messages()) == CLIENT_CLOSED_REQUEST
        await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(leaves())
