"""Offloaded calls and shared results keep an event loop responsive."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from serve.concurrency import CollectionPause, SingleFlight, ThreadOffloader
from tests.serve.asgi import until


class Source:
    """An expensive call; it returns when ``answers`` is set."""

    def __init__(self) -> None:
        self.calls, self.answers = 0, asyncio.Event()
        self.failure: Exception | None = None

    async def call(self) -> int:
        self.calls += 1
        number = self.calls
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure
        return number


def test_concurrent_callers_share_one_call() -> None:
    async def asked() -> None:
        source = Source()
        shared = SingleFlight(source.call, 3600.0)
        waiting = [asyncio.create_task(shared.get()) for _ in range(100)]
        await until(lambda: source.calls > 0)
        source.answers.set()
        assert await asyncio.gather(*waiting) == [1] * 100
        assert await shared.get() == 1

    asyncio.run(asked())


def test_an_old_result_is_not_reused() -> None:
    async def asked() -> list[int]:
        source = Source()
        source.answers.set()
        shared = SingleFlight(source.call, 0.0)
        return [await shared.get() for _ in range(3)]

    assert asyncio.run(asked()) == [1, 2, 3]


def test_a_cancelled_caller_does_not_cancel_the_call() -> None:
    async def asked() -> None:
        source = Source()
        shared = SingleFlight(source.call, 3600.0)
        first, second = (asyncio.create_task(shared.get()) for _ in range(2))
        await until(lambda: source.calls > 0)
        first.cancel()
        source.answers.set()
        assert await second == 1
        assert first.cancelled()

    asyncio.run(asked())


def test_a_failure_is_shared() -> None:
    async def asked() -> None:
        source = Source()
        source.failure = ZeroDivisionError()
        source.answers.set()
        shared = SingleFlight(source.call, 3600.0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await shared.get()
        assert source.calls == 1

    asyncio.run(asked())


def test_a_call_that_is_cancelled_before_it_starts_never_runs() -> None:
    async def asked() -> None:
        offload, started, proceed = ThreadOffloader("test"), threading.Event(), threading.Event()
        ran: list[str] = []

        def first() -> None:
            started.set()
            proceed.wait()
            ran.append("first")

        running = asyncio.create_task(offload(first))
        await until(started.is_set)
        waiting = asyncio.create_task(offload(ran.append, "second"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])  # the cancellation reaches the pool before its thread is free
        proceed.set()
        await running
        await offload(ran.append, "third")
        assert ran == ["first", "third"]

    asyncio.run(asked())


def test_garbage_collection_is_paused_while_any_thread_is_inside() -> None:
    pause = CollectionPause()
    assert gc.isenabled()
    with pause:
        with pause:
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
