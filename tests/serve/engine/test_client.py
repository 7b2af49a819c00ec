"""An ingress reports that it is not ready if no request gets finite numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from lladav.decoding.results import Decoded
from serve.engine.client import FAULT_SECONDS, FAULTS_NOT_READY, EngineReplicas, FaultTracker
from serve.engine.messages import Delta, EngineRequest, Event, Finished
from serve.errors import NOT_FINITE, ApiError
from serve.ingress import Ingress
from serve.settings import ReplicaSettings, ServeSettings
from tests.serve.engine.test_worker import request

BAD = ApiError(500, "logits are not finite", code=NOT_FINITE)


def test_faults_persist_after_several_in_a_row_and_for_a_while() -> None:
    now = [0.0]
    faults = FaultTracker(lambda: now[0])
    for _ in range(FAULTS_NOT_READY - 1):
        faults.record(BAD)
    assert not faults.persist
    faults.record()
    for _ in range(FAULTS_NOT_READY):
        faults.record(BAD)
    faults.record(ApiError(500, "the step failed", code="engine_error"))
    assert faults.persist
    now[0] = FAULT_SECONDS + 1
    assert not faults.persist
    faults.record(BAD)
    assert faults.persist
    faults.record()
    assert not faults.persist


class Response:
    """Stands for the response of a handle of Ray Serve: awaited for one result, or iterated for several."""

    def __init__(self, results: list[Any]) -> None:
        self._results = results

    def __await__(self) -> Any:
        return self._first().__await__()

    async def _first(self) -> Any:
        return self._given(self._results[0])

    async def __aiter__(self) -> AsyncIterator[Any]:
        for result in self._results:
            yield self._given(result)

    def _given(self, result: Any) -> Any:
        if isinstance(result, ApiError):
            raise RayTaskError("answer", "traceback", result)
        return result

    def cancel(self) -> None:
        """Nothing runs."""


class Handle:
    """A handle whose calls all return the same results."""

    def __init__(self, *results: Any) -> None:
        self.answer = self.events = self
        self._results = list(results)

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, _: EngineRequest) -> Response:
        return Response(self._results)


ENDED = Finished(0, Decoded([1], [1.0], 1, 1, 1), 1)


async def asked(replicas: EngineReplicas, stream: bool) -> list[list[Event]]:
    if stream:
        return [events async for events in replicas.events(request())]
    return [list(await replicas.answer(request()))]


def test_an_ingress_is_not_ready_where_no_forward_gives_finite_numbers(served: ServeSettings) -> None:
    failing: Any = Handle(BAD)
    settings = served.model_copy(update={"engine": ReplicaSettings(min_replicas=0)})
    ingress: Any = SimpleNamespace(_settings=settings, _replicas=EngineReplicas(failing))
    assert asyncio.run(Ingress._ready(ingress))
    for _ in range(FAULTS_NOT_READY):
        ingress._replicas.faults.record(BAD)
    with pytest.raises(ApiError, match="got finite numbers") as refused:
        asyncio.run(Ingress._ready(ingress))
    assert (refused.value.status, refused.value.code) == (503, NOT_FINITE)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_and_streams_are_noted(stream: bool) -> None:
    failing: Any = Handle(BAD)
    replicas = EngineReplicas(failing)
    for _ in range(FAULTS_NOT_READY):
        with pytest.raises(ApiError, match="not finite"):
            asyncio.run(asked(replicas, stream))
    assert replicas.faults.persist
    results = [[Delta(0, 1, 1)], [ENDED]] if stream else [[ENDED]]
    answering: Any = Handle(*results)
    answering = EngineReplicas(answering)
    answering.faults = replicas.faults
    asyncio.run(asked(answering, stream))
    assert not replicas.faults.persist
