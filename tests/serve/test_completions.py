"""Reading a request's images is a part of answering it."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve.api.bodies import ChatRequest
from serve.errors import ApiError
from serve.ingress import completions_of
from serve.settings import ServeSettings
from tests.lladav.build import tiny_config
from tests.serve.apis import NAME, LocalEngines
from tests.serve.pictures import encoded, picture, uri

IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(picture()))}}
MESSAGES = [{"role": "user", "content": [IMAGE]}]


def request(**given: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": NAME, "messages": MESSAGES, **given})


def test_the_deadline_counts_while_a_decoder_is_waited_for(
    served: ServeSettings, engines: LocalEngines
) -> None:
    async def with_all_decoders_busy() -> None:
        completions = completions_of(served, engines)
        slots = completions._media._pool._slots
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
