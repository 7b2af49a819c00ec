"""The whole application on Ray Serve: answers, disconnects, overload, failures, new versions."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2 as httpx
import openai
import pytest
from PIL import Image

from tests.serve.apis import NAME
from tests.serve.clusters import ConstantLoad, Outcome, Served, ask_all, cluster
from tests.serve.images import encoded, uri
from tests.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ENDLESS: dict[str, Any] = {"max_tokens": 512, "temperature": 5.0, "stream_mode": "denoise"}
LONG: dict[str, Any] = {"max_tokens": 128, "ignore_eos": True}
"""An answer that takes a while."""
SMALL: dict[str, Any] = {"engine__cpus": 0.5, "engine__max_rows": 4, "engine__max_waiting": 4}
ONE: dict[str, Any] = {**SMALL, "engine__max_queued": 4, "limits__body_seconds": 5.0}
PAIR: dict[str, Any] = {
    **SMALL,
    "engine__max_queued": 32,
    "engine__min_replicas": 2,
    "engine__max_replicas": 2,
}


@pytest.fixture(scope="module")
def application(model_folder: Path) -> Iterator[Served]:
    """The application, in the version that the last test left."""
    with cluster(model_folder, **ONE) as running:
        yield running


@pytest.fixture
def served(application: Served) -> Served:
    """The application with one engine replica."""
    application.ensure(**ONE)
    return application


def test_the_official_client_asks_about_an_image(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.address}/v1", api_key="none") as client:
        image = {"type": "image_url", "image_url": {"url": uri(encoded(Image.new("RGB", (50, 40))))}}
        content: Any = [image, {"type": "text", "text": "What is this?"}]
        asked: Any = {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 16}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content


def test_operations_are_answered(served: Served) -> None:
    with httpx.Client(base_url=served.address) as client:
        assert client.get("/health").json() == client.get("/ready").json() == {"status": "ok"}
        assert client.get("/").text.startswith("<!doctype html>")
        assert [*client.get("/v1/models").headers.get_list("x-request-id")][1:] == []


def test_a_body_that_does_not_end_is_a_timeout(served: Served) -> None:
    place = urlsplit(served.address)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((str(place.hostname), place.port or 0), timeout=60) as connection:
        connection.sendall(head.encode() + b'{"model": ')
        received = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server closes it
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in received


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_disconnect_free_their_rows(served: Served, stream: bool) -> None:
    async def start_and_disconnect(session: aiohttp.ClientSession) -> None:
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": "Count."}],
            "stream": stream,
            **ENDLESS,
        }
        with contextlib.suppress(asyncio.TimeoutError):
            async with (
                asyncio.timeout(0.5),
                session.post(f"{served.address}/v1/chat/completions", json=body) as reply,
            ):
                await reply.content.readline()

    async def several() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(start_and_disconnect(session) for _ in range(4)))

    for _ in range(2):
        asyncio.run(several())
        served.wait_until_empty()


def test_overload_refuses_some_and_answers_others(served: Served) -> None:
    outcomes = ask_all(served.address, 40, max_tokens=128, temperature=5.0)
    refused = [outcome for outcome in outcomes if not outcome.ok]
    assert {(each.status, code_of(each)) for each in refused} == {(503, "saturated")}
    assert all(each.retry_after for each in refused)
    assert len(outcomes) - len(refused) >= 8
    served.wait_until_empty()


def test_metrics_cover_engines_and_requests(served: Served) -> None:
    wanted = ("ray_lladav_requests_total", "ray_lladav_forwards_total", "ray_lladav_step_seconds_bucket")
    assert [outcome for outcome in ask_all(served.address, 1) if not outcome.ok] == []

    def exported() -> str:
        return httpx.get(f"{served.address}/metrics", timeout=30).text

    wait_for(lambda: all(name in exported() for name in wanted), exported, pause=0.5)


def test_a_replica_that_gets_sigterm_finishes_its_requests(served: Served) -> None:
    """Ray handles the signal once the calls of the replica are done."""
    (victim,) = served.engines()
    with ConstantLoad(served.address, given=LONG) as load:
        load.wait_for(1)
        served.wait_until_used(load.clients)
        victim.send_signal(signal.SIGTERM)
        victim.wait(timeout=60)
        load.wait_for(4)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []


@pytest.mark.redeploys
def test_a_new_version_a_lost_replica_and_the_end(served: Served) -> None:
    """One test: each part needs the deployment that the part before leaves, and deployments are slow."""
    a_new_version_under_load_fails_no_request(served)
    a_killed_replica_fails_only_its_streams(served)
    the_application_finishes_its_requests_before_it_ends(served)


def a_new_version_under_load_fails_no_request(served: Served) -> None:
    with ConstantLoad(served.address, pause=1.5, given=LONG) as load:
        load.wait_for(4)
        served.deploy(**PAIR)
        load.wait_for(4)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []


def a_killed_replica_fails_only_its_streams(served: Served) -> None:
    victim = served.engines()[0]
    with ConstantLoad(served.address, clients=6, pause=1.5, given=LONG) as load:
        load.wait_for(4)
        victim.send_signal(signal.SIGKILL)
        load.wait_for(8)
    failed = [outcome for outcome in load.outcomes if not outcome.ok]
    assert len(failed) <= 6
    assert {code_of(outcome) for outcome in failed} <= {"replica_lost"}
    assert all(outcome.ended for outcome in failed)


def the_application_finishes_its_requests_before_it_ends(served: Served) -> None:
    started = threading.Semaphore(0)
    long = {"max_tokens": 512, "ignore_eos": True, "stream": True, "begun": started.release}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_all, served.address, 4, **long)
        assert all(started.acquire(timeout=60) for _ in range(4))
        served.delete()
    assert [outcome.error for outcome in asked.result() if not outcome.ok] == []


def code_of(outcome: Outcome) -> str | None:
    return outcome.error["code"] if outcome.error else None
