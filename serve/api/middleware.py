"""What stands before every route: who asks, how much, how large, and the line that is logged about it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.auth.keys import Gate
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics
from serve.settings import Auth, KeySettings, ServeSettings

LOG = logging.getLogger("ray.serve.requests")
PLAIN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""Ids that are logged as they are. Ray Serve makes one for each request that has none, and sends it back."""
OPEN = {"/", "/health", "/ready", "/openapi.json"}
"""Paths that need no key; the playground's files are the others."""
PLAYGROUND = "/playground/"
FULL_SECONDS = 1.0
"""After which a client may ask again where there is no memory for its body."""
CLIENT_CLOSED_REQUEST = 499
"""Status, in logs and metrics, where the client went away before there was one; nginx's number."""
UNKNOWN = "other"
"""Endpoint of what has no route, in metrics: names in paths would never end."""


class RequestMiddleware:
    """ASGI middleware; what it refuses never reaches a route."""

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, gate: Gate, metrics: IngressMetrics, routes: set[str]
    ) -> None:
        self._app, self._gate, self._metrics, self._routes = app, gate, metrics, routes
        self._settings = settings
        self._memory = _Memory(settings.ingress.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._memory)
        try:
            await self._admit(scope, receive, exchange)
        except ApiError as error:
            self._metrics.rejected(error.code or str(error.status))
            await _refuse(error, scope, receive, exchange)
        except Exception:
            LOG.exception("request %s failed", exchange.id)
            error = ApiError(500, "the server failed; ask again", code="internal_error")
            await _refuse(error, scope, receive, exchange)
        finally:
            exchange.release()
            self._tell(exchange)

    async def _admit(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        key = self._identify(scope, exchange.path)
        exchange.key = key.name if key else None
        if scope["method"] != "POST":
            await self._app(scope, receive, exchange.send)
            return
        async with self._admitted(key):
            await self._read(scope, receive, exchange)
            await self._app(scope, receive, exchange.send)

    def _identify(self, scope: Scope, path: str) -> KeySettings | None:
        headers = Headers(scope=scope)
        if self._settings.auth is Auth.off:
            host = (scope.get("client") or ("",))[0]
            self._gate.check_loopback(host, headers.get("host"), headers.get("origin"))
            return None
        if path in OPEN or path.startswith(PLAYGROUND):
            return None
        return self._gate.identify(headers.get("authorization"))

    @contextlib.asynccontextmanager
    async def _admitted(self, key: KeySettings | None) -> AsyncIterator[None]:
        if key is None:
            yield
            return
        async with self._gate.admit(key):
            yield

    async def _read(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        """Read the whole body; raises ``ApiError`` for one that is too long or takes too long."""
        limits = self._settings.limits
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limits.body_bytes:
            raise _too_long(limits.body_bytes)
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in _parts(receive):
                    exchange.hold(part)
                    if exchange.held > limits.body_bytes:
                        raise _too_long(limits.body_bytes)
        except TimeoutError:
            message = f"the body was not complete after {limits.body_seconds:g} s; send it faster, or less"
            raise ApiError(408, message, code="body_timeout") from None

    def _tell(self, exchange: _Exchange) -> None:
        endpoint = exchange.path if exchange.path in self._routes else UNKNOWN
        seconds = time.monotonic() - exchange.since
        status = exchange.status or CLIENT_CLOSED_REQUEST
        self._metrics.observe_request(endpoint, status, seconds)
        line = {
            "request": exchange.id,
            "key": exchange.key,
            "endpoint": endpoint,
            "status": status,
            "seconds": round(seconds, 4),
            **exchange.notes,
        }
        LOG.info(json.dumps(line))


@dataclass
class _Memory:
    """What an ingress replica has for the bodies of all requests."""

    left: int


class _Exchange:
    """A request and what is known of its answer."""

    def __init__(self, scope: Scope, send: Send, memory: _Memory) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        self.path: str = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        """Below the application's own prefix."""
        self.since = time.monotonic()
        self.key: str | None = None
        self.status: int | None = None
        """Of the answer, once it has begun."""
        self.body: list[bytes] = []
        """Parts of the request's body. They are not joined here: that takes long for a large one."""
        self.held = 0
        """Bytes of the body that count as in memory."""
        self._memory = memory
        self.notes: dict[str, Any] = {}
        """What a route adds to the line that is logged."""
        self._send = send
        scope.setdefault("state", {})["exchange"] = self

    def hold(self, part: bytes) -> None:
        """Keep a part of the body; raises ``ApiError`` where there is no memory for it."""
        if len(part) > self._memory.left:
            message = "the server holds as many bodies as it has memory for; ask again"
            raise ApiError(503, message, code="saturated", retry_after=FULL_SECONDS)
        self._memory.left -= len(part)
        self.held += len(part)
        self.body.append(part)

    def release(self) -> None:
        """Forget the body."""
        self._memory.left += self.held
        self.held, self.body = 0, []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


async def _refuse(error: ApiError, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
    if exchange.status is None:
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, exchange.send)


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(
                CLIENT_CLOSED_REQUEST, "the connection ended before the body did", code="disconnected"
            )
        if part := message.get("body"):
            yield part
        more = message.get("more_body", False)


def _too_long(limit: int) -> ApiError:
    message = f"the body is longer than {limit} bytes; send fewer or smaller images"
    return ApiError(413, message, code="body_too_large")
