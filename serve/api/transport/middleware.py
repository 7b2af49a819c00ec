"""ASGI middleware before every route: authentication, limits, the request's body, and the log line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.transport.content_encoding import ContentDecoder
from serve.api.transport.context import BodyMemory, RequestContext
from serve.auth.keys import Authenticator
from serve.auth.loopback import check_loopback
from serve.auth.rate_limits import RateLimiter
from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics
from serve.settings import Auth, KeySettings, ServeSettings

LOG = logging.getLogger("ray.serve.requests")
PUBLIC_PATHS = {"/", "/health", "/ready", "/openapi.json"}
"""Paths that need no key, besides the files of the playground."""
PLAYGROUND = "/playground/"
CLIENT_CLOSED_REQUEST = 499
"""nginx's status of a request whose client disconnects before the response; for logs and metrics."""
OTHER_ENDPOINT = "other"
"""Endpoint in logs and metrics of paths without a route: their number is unbounded."""


class RequestMiddleware:
    """Makes the ``RequestContext`` of a request; a request that it refuses reaches no route."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        authenticator: Authenticator,
        limiter: RateLimiter,
        metrics: IngressMetrics,
        routes: set[str],
    ) -> None:
        self._app, self._settings = app, settings
        self._authenticator, self._limiter = authenticator, limiter
        self._metrics, self._routes = metrics, routes
        self._memory = BodyMemory(settings.ingress.held_bytes)
        self._decoder = ContentDecoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(scope, self._memory, self._metrics)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
            await send(message)

        try:
            await self._handle(scope, receive, send_and_note, context)
        except Exception as raised:  # noqa: BLE001 - every failure gets a response and a log line
            error = self._error_of(raised, context)
            if context.status is None:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send_and_note)
        finally:
            context.release_body()
            self._log(context)

    def _error_of(self, raised: Exception, context: RequestContext) -> ApiError:
        """The error that the client receives; the reason of an unexpected failure goes to the log only."""
        if isinstance(raised, ApiError):
            self._metrics.rejected(raised.code or str(raised.status))
            return raised
        LOG.error("request %s failed", context.id, exc_info=raised)
        return ApiError(500, "the server failed; ask again", code="internal_error")

    async def _handle(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        context.key = self._authenticate(scope, context.path)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        async with self._limiter.admit(context.key) if context.key else contextlib.nullcontext():
            await self._read_body(scope, receive, context)
            await self._app(scope, receive, send)

    def _authenticate(self, scope: Scope, path: str) -> KeySettings | None:
        """The key of the request; none if the path or the server needs none."""
        headers = Headers(scope=scope)
        if self._settings.auth is Auth.off:
            host = (scope.get("client") or ("",))[0]
            origins = self._settings.ingress.cors_origins
            check_loopback(host, headers.get("host"), headers.get("origin"), origins)
            return None
        if path in PUBLIC_PATHS or path.startswith(PLAYGROUND):
            return None
        return self._authenticator.identify(headers.get("authorization"))

    async def _read_body(self, scope: Scope, receive: Receive, context: RequestContext) -> None:
        """Read and decompress the whole body; raises ``ApiError`` if it is too long or takes too long."""
        limits = self._settings.limits
        message = f"the body is longer than {limits.body_bytes} bytes; send fewer or smaller images"
        too_large = ApiError(413, message, code="body_too_large")
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limits.body_bytes:
            raise too_large
        chunks = self._decoder.decoded(_chunks(receive), headers.get("content-encoding", ""))
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in chunks:
                    context.add_to_body(chunk)
                    if context.body_bytes > limits.body_bytes:
                        raise too_large
        except TimeoutError:
            message = f"the body was not complete after {limits.body_seconds:g} s; send it faster, or less"
            raise ApiError(408, message, code="body_timeout") from None

    def _log(self, context: RequestContext) -> None:
        """Count the request and log a line about it, which repeats nothing of its content."""
        endpoint = context.path if context.path in self._routes else OTHER_ENDPOINT
        seconds, status = context.seconds, context.status or CLIENT_CLOSED_REQUEST
        self._metrics.observe_request(endpoint, status, seconds)
        line = {
            "request": context.id,
            "key": context.key.name if context.key else None,
            "endpoint": endpoint,
            "status": status,
            "seconds": round(seconds, 4),
            **context.notes,
        }
        LOG.info(json.dumps(line))


def _without_body(send: Send) -> Send:
    """Sends a response without its body, as the answer to HEAD."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            reason = "the connection ended before the body did"
            raise ApiError(CLIENT_CLOSED_REQUEST, reason, code="disconnected")
        if chunk := message.get("body"):
            yield chunk
        more = message.get("more_body", False)
