"""The context of a request: what the middleware knows and what the routes add for log and metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from serve.errors import ApiError
from serve.ops.metrics import IngressMetrics
from serve.settings import KeySettings

STATE = "context"
"""Key of the context in ASGI's ``scope["state"]``, which Starlette offers for passing values to routes."""
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""Ids that are logged as they are. Ray Serve sets an id for a request without one, and returns it."""
RETRY_SECONDS = 1.0
"""``Retry-After`` when there is no memory for a body."""


@dataclass
class BodyMemory:
    """Bytes that an ingress replica may still hold in bodies, over all requests."""

    free: int


class AnswerObserver(Protocol):
    """Receives the times of an answer: its first token, and its end with the usage."""

    def first_token(self) -> None:
        """The first text of the answer exists."""
        ...

    def answered(self, usage: Mapping[str, Any]) -> None:
        """The answer is finished, with this usage."""
        ...


class RequestContext:
    """A request between the middleware, which makes its context, and the routes, which read and extend it."""

    def __init__(self, scope: Scope, memory: BodyMemory, metrics: IngressMetrics) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.path: str = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        """Below the application's own prefix."""
        self.started_at = time.monotonic()
        self.key: KeySettings | None = None
        """The API key with its limits; none without authentication."""
        self.status: int | None = None
        """Status of the response once it has started."""
        self.body: list[bytes] = []
        """Chunks of the request's body. They are joined in a thread: that takes long for a large body."""
        self.body_bytes = 0
        self.notes: dict[str, Any] = {}
        """Fields that routes add to the log line."""
        self._memory, self._metrics = memory, metrics
        scope.setdefault("state", {})[STATE] = self

    @staticmethod
    def of(request: Request) -> RequestContext:
        """The context of a request inside a route."""
        return getattr(request.state, STATE)

    @property
    def seconds(self) -> float:
        """Time since the request arrived."""
        return time.monotonic() - self.started_at

    def add_to_body(self, chunk: bytes) -> None:
        """Keep a chunk of the body; raises ``ApiError`` if there is no memory for it."""
        if len(chunk) > self._memory.free:
            message = "the server holds as many bodies as it has memory for; ask again"
            raise ApiError(503, message, code="saturated", retry_after=RETRY_SECONDS)
        self._memory.free -= len(chunk)
        self.body_bytes += len(chunk)
        self.body.append(chunk)

    def release_body(self) -> None:
        """Free the memory of the body."""
        self._memory.free += self.body_bytes
        self.body_bytes, self.body = 0, []

    def first_token(self) -> None:
        """Record that the first text of an answer is sent."""
        self._metrics.first_token(self.seconds)

    def answered(self, usage: Mapping[str, Any]) -> None:
        """Record the usage of the answers that are finished."""
        self._metrics.tokens(usage["completion_tokens"])
        self.notes.update(usage)

    def failed(self, error: ApiError) -> None:
        """Record the error of a stream: its status, 200, is already sent."""
        code = error.code or str(error.status)
        self._metrics.rejected(code)
        self.notes["error"] = code
