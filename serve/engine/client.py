"""The client through which an ingress calls the engine replicas; failures of Ray become ``ApiError``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve.engine.messages import EngineRequest, Event, Finished
from serve.errors import NOT_FINITE, ApiError

FAULTS_NOT_READY = 5
"""Consecutive requests with non-finite numbers after which the server reports that it is not ready."""
FAULT_SECONDS = 60.0
"""How long it reports so after the last of them; then it lets another request try."""
SATURATED_RETRY_SECONDS = 2.0
"""``Retry-After`` when all rows and queues are full."""
LOST_RETRY_SECONDS = 1.0
"""``Retry-After`` when a replica was lost."""


class Engines(Protocol):
    """Runs engine requests; all methods raise ``ApiError``."""

    async def answer(self, request: EngineRequest) -> list[Finished]:
        """All answers of a request, in order."""
        ...

    def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        """Events of a request as they happen; closing the generator cancels the request."""
        ...


class FaultTracker:
    """Tracks whether every recent request failed with numbers that are not finite."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._consecutive, self._last = clock, 0, 0.0

    def record(self, error: ApiError | None = None) -> None:
        """Record that a request finished, or failed with ``error``."""
        if error is None:
            self._consecutive = 0
        elif error.code == NOT_FINITE:
            self._consecutive, self._last = self._consecutive + 1, self._clock()

    @property
    def persist(self) -> bool:
        """Whether many consecutive requests failed, the last of them recently."""
        return self._consecutive >= FAULTS_NOT_READY and self._clock() - self._last < FAULT_SECONDS


class EngineReplicas:
    """The engine replicas behind a handle of Ray Serve."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)
        self.faults = FaultTracker()

    async def answer(self, request: EngineRequest) -> list[Finished]:
        """All answers of a request, in order. If its replica is lost, another one gets the request, once.

        Repeating is safe: nothing was sent to the client yet, and the answers are the same.
        """
        try:
            return await self._answer(request)
        except ReplicaLostError:
            return await self._answer(request)

    async def _answer(self, request: EngineRequest) -> list[Finished]:
        with _as_api_errors(self.faults):
            response = self._handle.answer.remote(request)
            try:
                answers = await response
                self.faults.record()
                return answers
            except asyncio.CancelledError:
                response.cancel()
                raise

    async def events(self, request: EngineRequest) -> AsyncGenerator[list[Event], None]:
        with _as_api_errors(self.faults):
            response: Any = self._streams.events.remote(request)
            try:
                async for events in response:
                    if any(isinstance(event, Finished) for event in events):
                        self.faults.record()
                    yield events
            finally:
                response.cancel()


class ReplicaLostError(ApiError):
    """A replica ended while it ran a request."""

    def __init__(self) -> None:
        message = "the replica that ran the request was lost; ask again"
        super().__init__(503, message, code="replica_lost", retry_after=LOST_RETRY_SECONDS)


@contextlib.contextmanager
def _as_api_errors(faults: FaultTracker) -> Iterator[None]:
    try:
        yield
    except BackPressureError:
        message = "all replicas are busy and the queue is full; ask again later"
        raise ApiError(503, message, code="saturated", retry_after=SATURATED_RETRY_SECONDS) from None
    except (RayActorError, DeploymentUnavailableError, RequestCancelledError):
        raise ReplicaLostError from None
    except RayTaskError as error:
        if isinstance(error.cause, ApiError):
            faults.record(error.cause)
            raise error.cause from None
        raise ApiError(500, "the replica failed; ask again", code="engine_error") from error
    except RayError:
        raise ReplicaLostError from None
