"""The application on a private Ray, and clients that keep sending requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx2 as httpx
import psutil
import ray
from ray import serve

from lladav.cluster import local_head
from serve.app import build
from serve.settings import ServeSettings
from tests.serve.apis import NAME, settings_of
from tests.waiting import PATIENCE, wait_for

APP, ENGINE = "lladav", "engine"


@dataclass
class Served:
    """A running application."""

    address: str
    model: Path
    ray_folder: Path
    """The ``--temp-dir`` of the Ray that it runs on."""
    given: dict[str, Any] | None
    """Its settings; none after it is deleted."""

    def load(self) -> dict[str, float]:
        """Autoscaling stats of an application with one engine replica."""
        handle: Any = serve.get_deployment_handle(ENGINE, APP)
        return handle.record_autoscaling_stats.remote().result(timeout_s=PATIENCE)

    def wait_until_empty(self) -> None:
        self.wait_until_used(0)

    def wait_until_used(self, rows: int) -> None:
        """Wait until ``rows`` rows are in use and no request waits."""

        def reached() -> bool:
            load = self.load()
            return load["rows_used"] == rows and not load["waiting"]

        wait_for(reached, self.load)

    def engines(self) -> list[psutil.Process]:
        """Processes of engine replicas; the folder in the raylet's command line identifies this Ray."""
        name = f"ray::ServeReplica:{APP}:{ENGINE}"
        found = [process for process in psutil.process_iter() if _title(process).startswith(name)]
        return [process for process in found if str(self.ray_folder) in _title(process.parent())]

    def ensure(self, **given: Any) -> None:
        """Deploy a version unless it is the one that runs: tests run in any order."""
        if self.given != given:
            self.deploy(**given)
        self._wait_for_replicas()

    def delete(self) -> None:
        """Delete the application; returns when its replicas have ended."""
        self.given = None
        serve.delete(APP)

    def deploy(self, **given: Any) -> None:
        """Replace the version; returns when its engine replicas run and no others."""
        serve.run(build(settings_of(self.model, **given)), name=APP, route_prefix="/")
        self.given = given
        self._wait_for_replicas()

    def _wait_for_replicas(self) -> None:
        """Wait for the replicas: Ray Serve may report the state from before the deployment."""
        assert self.given is not None
        wanted = settings_of(self.model, **self.given).engine.min_replicas
        wait_for(lambda: replica_states() == {"RUNNING": wanted}, replica_states, pause=0.5)


def replica_states() -> Mapping[Any, int]:
    """Number of engine replicas by state."""
    return serve.status().applications[APP].deployments[ENGINE].replica_states


def _title(process: psutil.Process | None) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) if process else ""
    return ""


@contextlib.contextmanager
def cluster(model: Path, **given: Any) -> Iterator[Served]:
    """The application with overrides of its settings, on a private Ray."""
    with local_head(cpus=8) as head, deployed(head.address, head.folder, model, **given) as served:
        yield served


@contextlib.contextmanager
def deployed(ray_address: str, ray_folder: Path, model: Path, **given: Any) -> Iterator[Served]:
    """The application on a running Ray with its folder."""
    settings: ServeSettings = settings_of(model, **given)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ray.init(ray_address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        serve.run(build(settings), name=APP, route_prefix="/")
        yield Served(f"http://127.0.0.1:{port}", model, ray_folder, given)
        serve.delete(APP)
    finally:
        ray.shutdown()


def put(applications: str, config: dict[str, Any]) -> dict[str, Any]:
    """Deploy a config at a dashboard; returns Ray's status once all replicas run."""
    httpx.put(applications, json=config, timeout=60).raise_for_status()

    def status() -> dict[str, Any]:
        return httpx.get(applications, timeout=30).json()["applications"].get(APP, {})

    def running() -> dict[str, Any] | None:
        now = status()
        assert now.get("status") != "DEPLOY_FAILED", now["message"]
        complete = now.get("status") == "RUNNING" and all(map(_has_target, now["deployments"].values()))
        return now if complete else None

    return wait_for(running, status, pause=0.5)


def _has_target(deployment: dict[str, Any]) -> bool:
    return len(deployment["replicas"]) == deployment["target_num_replicas"]


def replicas_of(status: dict[str, Any]) -> dict[str, int]:
    """Number of replicas by deployment, in any state."""
    return {name: len(each["replicas"]) for name, each in status["deployments"].items()}


@dataclass
class Outcome:
    """What became of one request."""

    status: int
    error: dict[str, Any] | None
    seconds: float
    retry_after: str | None = None
    text: str = ""
    ended: bool = True
    """Whether a stream came to its ``[DONE]``."""

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.error is None and self.ended


async def ask(
    session: aiohttp.ClientSession,
    address: str,
    headers: dict[str, str] | None = None,
    begun: Callable[[], object] = lambda: None,
    **given: Any,
) -> Outcome:
    """One chat completion, whole or as a stream; status 0 where the answer breaks off.

    ``begun`` is called when the first line of a stream arrives.
    """
    begin = time.monotonic()
    try:
        return await _ask(session, address, headers, begun, **given)
    except (aiohttp.ClientError, json.JSONDecodeError) as error:
        return Outcome(0, {"message": repr(error)}, time.monotonic() - begin)


async def _ask(
    session: aiohttp.ClientSession,
    address: str,
    headers: dict[str, str] | None,
    begun: Callable[[], object],
    **given: Any,
) -> Outcome:
    body = {"model": NAME, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 32, **given}
    begin = time.monotonic()
    async with session.post(f"{address}/v1/chat/completions", json=body, headers=headers) as response:
        first = await response.content.readline()
        begun()
        text = (first + await response.content.read()).decode()
        seconds, after = time.monotonic() - begin, response.headers.get("Retry-After")
        if response.content_type != "text/event-stream":
            said = json.loads(text)
            return Outcome(response.status, said.get("error"), seconds, after, text)
    *chunks, last = [line.removeprefix("data: ") for line in text.splitlines() if line]
    errors = [json.loads(chunk).get("error") for chunk in chunks]
    return Outcome(200, next(filter(None, errors), None), seconds, text=text, ended=last == "[DONE]")


def ask_all(address: str, count: int, **given: Any) -> list[Outcome]:
    """Send ``count`` requests at the same time."""

    async def all_of_them() -> list[Outcome]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(ask(session, address, **given) for _ in range(count)))

    return asyncio.run(all_of_them())


@dataclass
class ConstantLoad:
    """Clients that ask one request after another in a thread, until the block ends."""

    address: str
    clients: int = 4
    pause: float = 0.0
    """Seconds between an answer and the client's next request."""
    given: dict[str, Any] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> ConstantLoad:
        self._going = True
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until ``more`` further requests have ended."""
        wanted = len(self.outcomes) + more
        wait_for(lambda: len(self.outcomes) >= wanted, f"{more} answers", pause=0.02)

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._client(session, n) for n in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while self._going:
            given = {"stream": bool(number % 2), **self.given}
            self.outcomes.append(await ask(session, self.address, **given))
            await asyncio.sleep(self.pause)
