"""Counts of a request: one table, limits of the server, and lower limits of an API key."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from serve.api.planning.request_limits import RequestLimits
from serve.api.routing.routes import web_app
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody
from serve.auth.keys import Authenticator, hash_of
from serve.engine.client import Engines
from serve.errors import ApiError
from serve.ingress import service_of
from serve.settings import Auth, KeySettings, ServeSettings, load
from tests.serve.apis import NAME, LocalEngines
from tests.serve.asgi import JSON, Answer, ask, parts

MAX_POSITIONS = 512
LIMITS = RequestLimits(load({"model": "folder"}), MAX_POSITIONS)
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"function": {"name": "f", "arguments": "x" * 8 * MAX_POSITIONS}}
CALLED = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


class KeyWithLimits(KeySettings):
    """The fields that a contributor adds to ``KeySettings`` for limits of a single API key."""

    images: int | None = None
    max_tokens: int | None = None


def key_with(**limits: int) -> KeyWithLimits:
    return KeyWithLimits(name="a", sha256=hash_of("k"), **limits)


def chat(*content: Any, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "?"}]}]
    return {"model": NAME, "messages": messages, **fields}


def parsed(body: dict[str, Any]) -> DecodingBody:
    return (ChatRequest if "messages" in body else CompletionRequest).model_validate(body)


@pytest.mark.parametrize(
    ("body", "count", "param"),
    [
        (chat(n=5), "choices", "n"),
        (chat(stop=["a"] * 33), "stops", "stop"),
        (
            chat(tools=[{**TOOL, "function": {"name": "f", "description": "x" * 8 * MAX_POSITIONS}}]),
            "characters",
            "messages",
        ),
        (chat(messages=[*CALLED, {"role": "user", "content": ""}]), "characters", "messages"),
        (chat(messages=[{"role": "user", "content": ""}] * 65), "messages", "messages"),
        (chat(*[IMAGE] * 9), "images", "messages[0].content[8].image_url.url"),
        (chat({"type": "text", "text": "x" * 8 * MAX_POSITIONS}), "characters", "messages"),
        ({"model": NAME, "prompt": "x", "suffix": "x" * 8 * MAX_POSITIONS}, "characters", "prompt"),
    ],
)
def test_every_count_is_checked(body: dict[str, Any], count: str, param: str) -> None:
    exceeded = [c for c in LIMITS.counts(parsed(body)) if c.value > LIMITS.limit(c.name, None)]
    assert [each.name for each in exceeded] == [count]
    with pytest.raises(ApiError) as error:
        LIMITS.check(parsed(body), None)
    assert (error.value.status, error.value.param) == (400, param)


def test_tools_are_counted() -> None:
    limits = RequestLimits(load({"model": "folder"}), 10_000)
    limits.check(parsed(chat(tools=[TOOL] * 128)), None)
    with pytest.raises(ApiError, match="at most 128 tools") as error:
        limits.check(parsed(chat(tools=[TOOL] * 129)), None)
    assert error.value.param == "tools"


def test_a_key_lowers_a_limit_and_never_raises_it() -> None:
    assert LIMITS.limit("images", None) == LIMITS.limit("images", key_with()) == 8
    assert LIMITS.limit("images", key_with(images=2)) == 2
    assert LIMITS.limit("images", key_with(images=100)) == 8
    LIMITS.check(parsed(chat(IMAGE, IMAGE)), key_with(images=2))
    with pytest.raises(ApiError, match="3 images; a request may have 2 at most") as error:
        LIMITS.check(parsed(chat(IMAGE, IMAGE, IMAGE)), key_with(images=2))
    assert error.value.code == "too_many_images"


def asked(settings: ServeSettings, engines: Engines, key: KeySettings, body: dict[str, Any]) -> Answer:
    """The response to a request with an API key."""

    async def ready() -> bool:
        return True

    service = service_of(settings.model_copy(update={"auth": Auth.keys}), engines, ready)
    service = replace(service, authenticator=Authenticator([key]))
    headers = {**JSON, "authorization": "Bearer k"}
    messages = parts(json.dumps(body).encode())
    return asyncio.run(ask(web_app(service), "/v1/chat/completions", messages, headers=headers))


def test_the_limits_of_a_key_apply_to_its_requests(served: ServeSettings, engines: LocalEngines) -> None:
    key = key_with(max_tokens=4)
    for given in ({}, {"max_tokens": 5}, {"max_completion_tokens": 10**6}):
        answered = json.loads(asked(served, engines, key, chat(ignore_eos=True, **given)).body)
        assert answered["usage"]["completion_tokens"] == 4
        assert [line.split()[0] for line in answered.get("warnings", [])] == list(given)
