"""Bodies that do not end, disconnects, and many calls of ``/ready``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.types import Message

from lladav.inputs.chat import ChatTokenizer
from serve.api.answers.completions import Completions
from serve.api.routing.routes import web_app
from serve.api.routing.service import Service
from serve.api.transport.middleware import CLIENT_CLOSED_REQUEST
from serve.auth.keys import Authenticator, hash_of
from serve.auth.rate_limits import RateLimiter
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics
from serve.settings import Auth, KeySettings, ServeSettings
from tests.lladav.build import tiny_config
from tests.serve.asgi import JSON, Answer, ask, parts, until

CHAT = "/v1/chat/completions"
KEYED = {**JSON, "authorization": "Bearer k"}
PIECE: Message = {"type": "http.request", "body": b" ", "more_body": True}


class Seen(IngressMetrics):
    """Metrics that tests can read."""

    def __init__(self) -> None:
        self.statuses, self.reasons = list[int](), list[str]()

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        del endpoint, seconds
        self.statuses.append(status)

    def rejected(self, reason: str) -> None:
        self.reasons.append(reason)


class Server:
    """The web application for one key that may run two requests, without engines."""

    def __init__(self, served: ServeSettings, **limits: Any) -> None:
        key = KeySettings(name="a", sha256=hash_of("k"), concurrency=2)
        changed = {"auth": Auth.keys, "keys": [key], "limits": served.limits.model_copy(update=limits)}
        self.settings = served.model_copy(update=changed)
        self.limiter = RateLimiter(self.settings.name, self.settings.limits_storage)
        self.metrics, self.probes = Seen(), 0
        self.answers = asyncio.Event()
        self.ready: bool | Exception = True

    async def is_ready(self) -> bool:
        self.probes += 1
        await self.answers.wait()
        if isinstance(self.ready, Exception):
            raise self.ready
        return self.ready

    @property
    def app(self) -> FastAPI:
        keys, no_completions = Authenticator(self.settings.keys), cast(Completions, None)
        service = Service(
            self.settings,
            tiny_config(),
            cast(ChatTokenizer, None),
            no_completions,
            keys,
            self.limiter,
            self.metrics,
            self.is_ready,
        )
        return web_app(service)

    @property
    def running(self) -> int:
        """Requests of the key that count as running."""
        return self.limiter._running["a"]


async def trickle() -> AsyncIterator[Message]:
    while True:
        yield PIECE
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("messages", [[], [PIECE] * 3, trickle()], ids=["headers only", "stalls", "trickles"])
def test_a_body_that_does_not_end_is_a_timeout(served: ServeSettings, messages: Any) -> None:
    server = Server(served, body_seconds=0.2)
    answer = asyncio.run(ask(server.app, CHAT, messages, headers=KEYED))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["type"]) == (408, "body_timeout", "timeout_error")
    assert "not complete after 0.2 s" in error["message"]
    assert answer.headers["connection"] == "close"
    assert server.running == 0
    assert server.metrics.reasons == ["body_timeout"]


def test_a_client_that_disconnects_within_its_body_no_longer_counts_as_running(served: ServeSettings) -> None:
    server, leaves = Server(served), asyncio.Event()

    async def messages() -> AsyncIterator[Message]:
        yield PIECE
        await leaves.wait()
        yield {"type": "http.disconnect"}

    async def asked() -> None:
        asking = asyncio.create_task(ask(server.app, CHAT, messages(), headers=KEYED))
        await until(lambda: server.running == 1)
        leaves.set()
        await asking

    asyncio.run(asked())
    assert server.running == 0
    assert server.metrics.statuses == [CLIENT_CLOSED_REQUEST]


def test_bodies_beyond_the_memory_are_refused(served: ServeSettings) -> None:
    server = Server(served, body_bytes=1000)
    server.settings = server.settings.model_copy(
        update={"ingress": served.ingress.model_copy(update={"held_bytes": 1500})}
    )
    whole, leaves = parts(b" " * 900), asyncio.Event()

    async def half() -> AsyncIterator[Message]:
        yield {"type": "http.request", "body": b" " * 900, "more_body": True}
        await leaves.wait()
        yield {"type": "http.disconnect"}

    async def asked() -> list[Answer]:
        app = server.app
        held = asyncio.create_task(ask(app, "/v1/none", half(), headers=KEYED))
        await until(lambda: server.running == 1)
        await asyncio.sleep(0)
        refused = await ask(app, "/v1/none", whole, headers=KEYED)
        leaves.set()
        await held
        return [refused, *[await ask(app, "/v1/none", whole, headers=KEYED) for _ in range(3)]]

    refused, *others = asyncio.run(asked())
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, "saturated")
    assert refused.headers["retry-after"] == "1"
    assert [answer.status for answer in others] == [404] * 3


def test_the_time_limit_of_a_body_does_not_apply_to_its_answer(served: ServeSettings) -> None:
    server = Server(served, body_seconds=0.05)

    async def asked() -> Answer:
        asking = asyncio.create_task(ask(server.app, "/ready", method="GET", headers={}))
        await until(lambda: server.probes == 1)
        await asyncio.sleep(0.1)
        server.answers.set()
        return await asking

    assert asyncio.run(asked()).status == 200


def test_a_whole_body_is_on_time(served: ServeSettings) -> None:
    server = Server(served, body_seconds=20.0)
    answer = asyncio.run(ask(server.app, "/v1/none", parts(b" " * 2**20), headers=KEYED))
    assert answer.status == 404


def test_many_probes_call_the_controller_once(served: ServeSettings) -> None:
    server = Server(served)

    async def asked() -> list[Answer]:
        app = server.app
        probes = [asyncio.create_task(ask(app, "/ready", method="GET", headers={})) for _ in range(100)]
        await until(lambda: server.probes > 0)
        server.answers.set()
        return [await probe for probe in (*probes, asyncio.create_task(ask(app, "/ready", method="GET")))]

    assert [answer.status for answer in asyncio.run(asked())] == [200] * 101
    assert server.probes == 1


@pytest.mark.parametrize(
    ("ready", "code"),
    [
        (False, "not_ready"),
        (ZeroDivisionError("at /home/secret"), "not_ready"),
        (ApiError(503, "no numbers", code="not_finite"), "not_finite"),
    ],
)
def test_a_server_that_cannot_find_out_is_not_ready(
    served: ServeSettings, ready: bool | Exception, code: str
) -> None:
    server = Server(served)
    server.ready = ready
    server.answers.set()
    answer = asyncio.run(ask(server.app, "/ready", method="GET", headers={}))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, code)


def test_a_controller_that_does_not_answer_means_not_ready(
    served: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.api.routing.operations.READY_SECONDS", 0.1)
    answer = asyncio.run(ask(Server(served).app, "/ready", method="GET", headers={}))
    assert answer.status == 503
