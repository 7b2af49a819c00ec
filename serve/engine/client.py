"""How an ingress asks the engine replicas, and what it makes of what can go wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve.engine.messages import EngineRequest, Event, Finished
from serve.errors import NOT_FINITE, ApiError

FAULTS_NOT_READY = 5
"""Jobs in a row whose numbers are not finite, after which no request is expected to be answered."""
FAULT_SECONDS = 60.0
"""For how long that is expected after the last of them; then another request may try."""
SATURATED_SECONDS, LOST_SECONDS = 2.0, 1.0
"""After which a client may ask again: where all rows and queues are full, and where a replica was lost."""


class Engines(Protocol):
    """Whoever runs jobs; all methods raise ``ApiError``."""

    async def answer(self, job: EngineRequest) -> list[Finished]:
        """All answers of a job."""
        ...

    def events(self, job: EngineRequest) -> AsyncIterator[list[Event]]:
        """What happens to a job, as it happens; closing the iterator ends the job."""
        ...


class FaultTracker:
    """Whether every forward of late gave numbers that are not finite."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._in_a_row, self._last = clock, 0, 0.0

    def note(self, error: ApiError | None = None) -> None:
        """A job has ended, or has failed with an error."""
        if error is None:
            self._in_a_row = 0
        elif error.code == NOT_FINITE:
            self._in_a_row, self._last = self._in_a_row + 1, self._clock()

    @property
    def persist(self) -> bool:
        """Whether jobs failed so one after another, the last of them not long ago."""
        return self._in_a_row >= FAULTS_NOT_READY and self._clock() - self._last < FAULT_SECONDS


class EngineReplicas:
    """The replicas behind a handle of Ray Serve."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)
        self.faults = FaultTracker()

    async def answer(self, job: EngineRequest) -> list[Finished]:
        """All answers of a job; where its replica is lost, another one is asked, once.

        Nothing was sent to the client yet, and the answers would be the same.
        """
        try:
            return await self._answer(job)
        except ReplicaLostError:
            return await self._answer(job)

    async def _answer(self, job: EngineRequest) -> list[Finished]:
        with _as_api_errors(self.faults):
            response = self._handle.answer.remote(job)
            try:
                ended = await response
                self.faults.note()
                return ended
            except asyncio.CancelledError:
                response.cancel()
                raise

    async def events(self, job: EngineRequest) -> AsyncIterator[list[Event]]:
        with _as_api_errors(self.faults):
            response: Any = self._streams.events.remote(job)
            try:
                async for events in response:
                    if any(isinstance(event, Finished) for event in events):
                        self.faults.note()
                    yield events
            finally:
                response.cancel()


class ReplicaLostError(ApiError):
    """A replica ended while it ran a job."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "the replica that ran the request was lost; ask again",
            code="replica_lost",
            retry_after=LOST_SECONDS,
        )


@contextlib.contextmanager
def _as_api_errors(faults: FaultTracker) -> Iterator[None]:
    try:
        yield
    except BackPressureError:
        message = "all replicas are busy and the queue is full; ask again later"
        raise ApiError(503, message, code="saturated", retry_after=SATURATED_SECONDS) from None
    except (RayActorError, DeploymentUnavailableError, RequestCancelledError):
        raise ReplicaLostError from None
    except RayTaskError as error:
        if isinstance(error.cause, ApiError):
            faults.note(error.cause)
            raise error.cause from None
        raise ApiError(500, "the replica failed; ask again", code="engine_error") from error
    except RayError:
        raise ReplicaLostError from None
