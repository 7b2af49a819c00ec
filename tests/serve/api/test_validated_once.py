"""Decoding options are validated once for each request, however far it travels."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from lladav.decoding.params import DecodingOptions
from serve.api.answers.choice_writing import ChoicesWriter
from serve.api.schemas.completion_requests import ChatRequest
from serve.api.transport.context import BodyMemory, RequestContext
from serve.engine.messages import EngineRequest, Event, Finished
from serve.ingress import service_of
from serve.settings import ServeSettings
from tests.serve.apis import NAME, LocalEngines
from tests.serve.images import encoded, sample_image, uri

IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


class PicklingEngines(LocalEngines):
    """Engines that receive a pickled request, as through Ray."""

    def __init__(self, engines: LocalEngines) -> None:
        self._engines = engines

    async def answer(self, request: EngineRequest) -> list[Finished]:
        return await self._engines.answer(pickle.loads(pickle.dumps(request)))

    def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        return self._engines.events(pickle.loads(pickle.dumps(request)))


@pytest.mark.parametrize(
    "fields",
    [
        {"refresh_interval": {"min": 1, "max": 16}, "n": 3, "temperature": 1.0, "stop": ["a"]},
        {"ignore_eos": True, "deadline_ms": 60_000, "effort": "fast"},
        {"response_format": FORMAT},
        {"stream": True, "stream_mode": "denoise"},
    ],
)
def test_the_options_of_a_request_are_validated_once(
    served: ServeSettings, engines: LocalEngines, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    async def ready() -> bool:
        return True

    service = service_of(served, PicklingEngines(engines), ready)
    validate, validated = DecodingOptions.__post_init__, list[None]()

    def count(self: DecodingOptions) -> None:
        validated.append(None)
        validate(self)

    monkeypatch.setattr(DecodingOptions, "__post_init__", count)
    messages = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "?"}]}]
    body = ChatRequest.model_validate({"model": NAME, "messages": messages, "max_tokens": 16, **fields})

    async def answered() -> None:
        context = RequestContext({"type": "http", "path": "/", "headers": []}, BodyMemory(0), service.metrics)
        prepared = await service.completions.prepare(body, None)
        if prepared.stream:
            stream = await service.completions.stream(prepared, context, ChoicesWriter)
            events = [event async for event in stream]
            assert events[-1] == "data: [DONE]\n\n"
        else:
            assert await service.completions.answer(prepared, context, ChoicesWriter)

    asyncio.run(answered())
    assert len(validated) == 1
