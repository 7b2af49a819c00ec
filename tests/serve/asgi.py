"""An ASGI server for tests: the test controls every message, in its own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

from tests.waiting import PATIENCE

JSON = {"content-type": "application/json"}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@dataclass
class Answer:
    """A response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message.get("body", b"")


async def ask(
    app: ASGIApp,
    path: str,
    messages: Iterable[Message] | AsyncIterator[Message] = (),
    *,
    method: str = "POST",
    headers: Mapping[str, str] = JSON,
    client: str = "127.0.0.1",
) -> Answer:
    """Send a request to an application. After ``messages``, the client sends nothing more."""
    answer, received = Answer(), _iterated(messages)

    async def receive() -> Message:
        async for message in received:
            return message
        return await asyncio.Event().wait()  # type: ignore[return-value] - never

    async def send(message: Message) -> None:
        answer.take(message)

    await app(_scope(path, method, {"host": "localhost", **headers}, client), receive, send)
    return answer


async def _iterated(messages: Iterable[Message] | AsyncIterator[Message]) -> AsyncIterator[Message]:
    if isinstance(messages, AsyncIterator):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message


def parts(body: bytes, size: int = 2**16) -> list[Message]:
    """The messages of a whole body, split as servers do."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    last = len(pieces) - 1
    return [
        {"type": "http.request", "body": piece, "more_body": number < last}
        for number, piece in enumerate(pieces)
    ]


def _scope(path: str, method: str, headers: Mapping[str, str], client: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (client, 1),
        "server": ("localhost", 80),
    }
