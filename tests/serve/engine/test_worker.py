"""The engine worker: events in order, rows freed at once, isolated failures, the refresh interval."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lladav.decoding.params import DecodingOptions
from serve.engine.messages import Delta, EngineRequest, Event, Finished, StreamMode
from serve.engine.refresh_policy import RefreshRange
from serve.engine.worker import EngineWorker
from serve.errors import ApiError
from serve.settings import ServeSettings
from tests.lladav.build import text_sample
from tests.serve.apis import LocalEngines
from tests.waiting import wait_for

FAR = 4e9
ROWS = 16


@pytest.fixture
def worker(engines: LocalEngines) -> Iterator[EngineWorker]:
    """The worker that all tests share; checks that each leaves it empty."""
    yield engines.worker
    wait_for(lambda: (engines.worker.load.rows_used, engines.worker.load.waiting) == (0, 0))
    kv_cache, admission = engines.engine.kv_cache, engines.engine.admission
    assert kv_cache.free_blocks == kv_cache.total_blocks
    assert admission.free_prompt_bytes == admission.prompt_bytes


def request(name: str = "request", tokens: int = 16, **given: Any) -> EngineRequest:
    """A request without stops; ``options`` and other fields as given."""
    options = DecodingOptions(**{"max_tokens": tokens, "stop": (), **given.pop("options", {})})
    fields = {"refresh": RefreshRange(1, 1), "deadline": FAR, **given}
    return EngineRequest(name, text_sample("answer", 9), 9, options, **fields)


async def collected(worker: EngineWorker, wanted: EngineRequest) -> list[Event]:
    return [event async for events in worker.events(wanted) for event in events]


def run(worker: EngineWorker, wanted: EngineRequest) -> list[Event]:
    return asyncio.run(collected(worker, wanted))


def test_committed_tokens_come_in_order_and_once(worker: EngineWorker) -> None:
    *steps, ended = run(worker, request(stream_mode=StreamMode.committed))
    assert isinstance(ended, Finished)
    tokens = [token for step in steps if isinstance(step, Delta) for token in step.tokens]
    assert tokens == ended.answer.tokens[: len(tokens)]
    assert len(tokens) == 16


def test_denoising_deltas_unmask_each_position_once(worker: EngineWorker) -> None:
    *steps, ended = run(worker, request(stream_mode=StreamMode.denoise))
    assert [step.step for step in steps if isinstance(step, Delta)] == list(range(1, 17))
    places = [place for step in steps if isinstance(step, Delta) for place in step.unmasked.positions]
    assert sorted(places) == list(range(16))
    assert isinstance(ended, Finished)


def test_without_deltas_only_the_end_is_sent(worker: EngineWorker) -> None:
    ended = run(worker, request(choices=3, options={"temperature": 1.0}))
    assert sorted(each.choice for each in ended) == [0, 1, 2]
    assert len({tuple(each.answer.tokens) for each in ended if isinstance(each, Finished)}) == 3


def test_answers_do_not_depend_on_other_requests(worker: EngineWorker) -> None:
    async def together() -> list[list[Event]]:
        jobs = [request(f"request {n}", options={"temperature": 1.0, "seed": n % 2}) for n in range(2 * ROWS)]
        return await asyncio.gather(*(collected(worker, each) for each in jobs))

    found = [events[-1] for events in asyncio.run(together())]
    texts = [tuple(each.answer.tokens) for each in found if isinstance(each, Finished)]
    assert len(texts) == 2 * ROWS
    assert len(set(texts)) == 2


@pytest.fixture
def steps(engines: LocalEngines, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each step that the engine has started."""
    begun: list[None] = []
    step = engines.engine.step

    def counted() -> Any:
        begun.append(None)
        return step()

    monkeypatch.setattr(engines.engine, "step", counted)
    return begun


A_FEW = 3
"""Steps: the one that runs when a request leaves, and the one after it."""


def test_an_abandoned_request_leaves_within_a_step(worker: EngineWorker, steps: list[None]) -> None:
    async def begin_and_leave() -> int:
        events = worker.events(request(tokens=512, choices=4, stream_mode=StreamMode.denoise))
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return len(steps)

    until_left = asyncio.run(begin_and_leave())
    wait_for(lambda: worker.load.rows_used == 0)
    assert len(steps) <= until_left + A_FEW


def test_a_cancelled_task_leaves_too(worker: EngineWorker, steps: list[None]) -> None:
    async def begin_and_cancel() -> int:
        task = asyncio.create_task(collected(worker, request(tokens=512)))
        while not worker.load.rows_used:
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return len(steps)

    until_left = asyncio.run(begin_and_cancel())
    wait_for(lambda: worker.load.rows_used == 0)
    assert len(steps) <= until_left + A_FEW


def test_requests_with_one_id_are_independent(worker: EngineWorker) -> None:
    async def leave_one_of_two() -> list[Event]:
        stays = asyncio.create_task(collected(worker, request(tokens=64)))
        leaves = worker.events(request(tokens=64, stream_mode=StreamMode.denoise))
        await anext(leaves)
        await leaves.aclose()  # type: ignore[attr-defined]
        return await stays

    (ended,) = asyncio.run(leave_one_of_two())
    assert isinstance(ended, Finished)
    assert len(ended.answer.tokens) == 64


def test_load_counts_rows_and_waiting_answers(worker: EngineWorker) -> None:
    async def crowd() -> None:
        tasks = [
            asyncio.create_task(collected(worker, request(f"request {n}", tokens=512)))
            for n in range(ROWS + 5)
        ]
        while not worker.load.oldest_waiting_seconds > 0.05:
            await asyncio.sleep(0.01)
        assert (worker.load.rows_used, worker.load.rows, worker.load.waiting) == (ROWS, ROWS, 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(crowd())


def test_a_request_that_cannot_run_is_refused(worker: EngineWorker) -> None:
    with pytest.raises(ApiError, match="outside the vocabulary") as refused:
        run(worker, request(options={"suffix": (10**9,)}))
    assert refused.value.status == 400


def test_a_request_that_fails_the_forward_fails_alone(
    worker: EngineWorker, engines: LocalEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engines.engine._runner.step

    def fails(rows: Any) -> Any:
        if any(row.id.startswith("bad") for row in rows):
            raise RuntimeError("out of memory\nand a long story")
        return forward(rows)

    async def both() -> list[Any]:
        jobs = [collected(worker, request("bad", choices=2)), collected(worker, request("good", choices=2))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    with monkeypatch.context() as patched:
        patched.setattr(engines.engine._runner, "step", fails)
        failed, answered = asyncio.run(both())
        assert isinstance(failed, ApiError)
        assert (failed.status, failed.message) == (
            500,
            "the step failed: RuntimeError: out of memory; ask again",
        )
        assert len(answered) == 2
        with pytest.raises(ApiError):
            run(worker, request("bad"))
        assert worker.failed_steps > 0
    run(worker, request())
    assert worker.failed_steps == 0


def test_numbers_that_are_not_finite_are_an_error_and_counted(served: ServeSettings) -> None:
    engines, failed = LocalEngines(served), list[str]()
    engines.worker._metrics.failed = failed.append  # type: ignore[method-assign]
    with torch.no_grad():
        engines.engine._model.language.norm.weight.fill_(torch.nan)
    try:
        requests: list[dict[str, Any]] = [
            {},
            {"options": {"temperature": 1.0}, "choices": 2},
            {"stream_mode": StreamMode.denoise},
        ]
        for given in requests:
            with pytest.raises(ApiError, match="logits are not finite: the weights are damaged") as refused:
                run(engines.worker, request(**given))
            assert (refused.value.status, refused.value.code) == (500, "not_finite")
        assert failed == ["not_finite"] * 4
        assert engines.worker.failed_steps == 3
    finally:
        engines.worker.stop()


def interval(worker: EngineWorker, wanted: EngineRequest) -> int:
    ended = run(worker, wanted)[-1]
    assert isinstance(ended, Finished)
    assert ended.refresh_interval is not None
    return ended.refresh_interval


def test_the_interval_is_the_smallest_without_load(worker: EngineWorker) -> None:
    assert interval(worker, request(refresh=RefreshRange(2, 32))) == 2


def test_the_interval_rises_with_load(worker: EngineWorker) -> None:
    async def crowd() -> list[list[Event]]:
        jobs = [request(f"request {n}", refresh=RefreshRange(2, 32)) for n in range(4 * ROWS)]
        return await asyncio.gather(*(collected(worker, each) for each in jobs))

    ends = [events[-1] for events in asyncio.run(crowd())]
    intervals = [each.refresh_interval or 0 for each in ends if isinstance(each, Finished)]
    assert max(intervals) == 32
    assert intervals[-1] < 32


@contextlib.contextmanager
def scarce(engines: LocalEngines, blocks: int) -> Iterator[None]:
    """Leave this many KV blocks free."""
    kv_cache = engines.engine.kv_cache
    held = kv_cache.allocate(kv_cache.block_size * (kv_cache.free_blocks - blocks))
    assert held is not None
    try:
        yield
    finally:
        kv_cache.free(held)


async def crowd_behind(worker: EngineWorker, first: asyncio.Task[Any], waiting: int) -> None:
    """Send many requests once ``waiting`` answers of the first wait for memory."""
    while worker.load.waiting < waiting:
        assert not first.done()
        await asyncio.sleep(0.01)
    jobs = [request(f"request {n}", tokens=1) for n in range(2 * ROWS)]
    tasks = [asyncio.create_task(collected(worker, each)) for each in jobs]
    while worker.load.waiting < waiting + len(tasks):
        assert not first.done()
        await asyncio.sleep(0.01)


def test_the_interval_is_chosen_when_there_is_memory(worker: EngineWorker, engines: LocalEngines) -> None:
    async def wait_for_memory() -> list[Event]:
        with scarce(engines, 0):
            first = asyncio.create_task(collected(worker, request(refresh=RefreshRange(2, 32))))
            await crowd_behind(worker, first, 1)
        return await first

    (ended,) = asyncio.run(wait_for_memory())
    assert isinstance(ended, Finished)
    assert ended.refresh_interval == 32


def test_all_answers_of_a_request_have_one_interval(worker: EngineWorker, engines: LocalEngines) -> None:
    async def one_by_one() -> list[Event]:
        with scarce(engines, 9):
            first = asyncio.create_task(
                collected(worker, request(tokens=256, choices=2, refresh=RefreshRange(2, 32)))
            )
            await crowd_behind(worker, first, 1)
            return await first

    ended = asyncio.run(one_by_one())
    assert [each.refresh_interval for each in ended if isinstance(each, Finished)] == [2, 2]


def test_the_interval_rises_if_time_is_short(served: ServeSettings) -> None:
    """The step-time model gets steps with times that the test makes up."""
    engines = LocalEngines(served)
    try:
        for n in range(12):
            engines.worker._step_time.add(60.0 + n, 1e-2 * (60.0 + n))
        short = replace(request(tokens=64, refresh=RefreshRange(1, 64)), deadline=time.time() + 40.0)
        assert interval(engines.worker, short) > 1
        assert interval(engines.worker, replace(short, deadline=FAR)) == 1
    finally:
        engines.worker.stop()


def test_a_step_that_hangs_is_seen(served: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = LocalEngines(served)
    step = engines.engine.step

    def slow() -> Any:
        time.sleep(0.5)
        return step()

    monkeypatch.setattr(engines.engine, "step", slow)

    async def begin() -> None:
        task = asyncio.create_task(collected(engines.worker, request()))
        while engines.worker.step_seconds < 0.2:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(begin())
    engines.worker.stop()
    assert not engines.worker.alive


def errors_of(worker: EngineWorker, *wanted: EngineRequest) -> list[tuple[int, str | None]]:
    """Status and code of the errors of requests, within seconds."""

    async def all_of_them() -> list[Any]:
        async with asyncio.timeout(20):
            return await asyncio.gather(*(collected(worker, each) for each in wanted), return_exceptions=True)

    errors = asyncio.run(all_of_them())
    return [(each.status, each.code) for each in errors if isinstance(each, ApiError)]


ENGINE_ERROR = 500, "engine_error"


@pytest.mark.parametrize("method", ["submit", "step"])
def test_all_requests_fail_when_the_thread_ends(
    served: ServeSettings, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError("no room for anything")

    engines = LocalEngines(served)
    monkeypatch.setattr(engines.engine, method, fails)
    assert errors_of(engines.worker, request("a"), request("b")) == [ENGINE_ERROR] * 2
    wait_for(lambda: not engines.worker.alive)
    assert errors_of(engines.worker, request("late")) == [ENGINE_ERROR]


def test_a_request_that_finishes_in_the_last_step_fails_too(
    served: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError("no room for anything")

    engines = LocalEngines(served)
    monkeypatch.setattr(engines.worker._metrics, "gauges", fails)
    assert errors_of(engines.worker, request(tokens=1)) == [ENGINE_ERROR]
