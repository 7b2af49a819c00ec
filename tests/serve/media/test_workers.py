"""Worker processes: what runs too long or dies ends alone, and the event loop goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from anyio import BrokenWorkerProcess

from serve.media.loader import WorkerPool, WorkerTimeout
from tests.serve.loops import Run, forever


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Waits for coroutines of one event loop: its workers are started once."""
    with forever() as submit:
        yield lambda coroutine: submit(coroutine).result(60)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class TestWorkers:
    """Decoding happens elsewhere, and ends in time."""

    def test_a_call_that_hangs_is_killed_and_the_next_one_works(self, run: Run):
        async def outline() -> tuple[int, int]:
            pool = WorkerPool(1, 2.0)
            first = await pool.run(os.getpid)
            with pytest.raises(WorkerTimeout):
                await pool.run(time.sleep, 600)
            return first, await pool.run(os.getpid)

        first, second = run(outline())
        assert len({first, second, os.getpid()}) == 3
        assert not alive(first)

    def test_a_call_that_is_cancelled_is_killed(self, run: Run):
        async def outline() -> int:
            pool = WorkerPool(1, 60)
            worker = await pool.run(os.getpid)
            call = asyncio.create_task(pool.run(time.sleep, 60))
            await asyncio.sleep(0.2)
            call.cancel()
            await asyncio.wait([call])
            return worker

        assert not alive(run(outline()))

    def test_a_start_that_nobody_waits_for_any_more_is_there_for_the_next(self, run: Run):
        async def outline() -> tuple[set[int], int]:
            pool = WorkerPool(1, 60)
            with pytest.raises(BrokenWorkerProcess):
                await pool.run(os._exit, 1)
            before = children()
            call = asyncio.create_task(pool.run(os.getpid))
            while not (started := children() - before):
                await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.wait([call])
            return started, await pool.run(os.getpid)

        started, used = run(outline())
        assert started == {used}

    def test_a_worker_that_dies_blames_its_call_alone(self, run: Run):
        async def outline() -> int:
            pool = WorkerPool(1, 20)
            with pytest.raises(BrokenWorkerProcess):
                await pool.run(os._exit, 1)
            return await pool.run(os.getpid)

        assert run(outline()) != os.getpid()

    def test_the_wait_for_a_worker_does_not_count(self, run: Run):
        async def outline() -> None:
            pool = WorkerPool(1, 2.0)
            await asyncio.gather(*(pool.run(time.sleep, 0.6) for _ in range(4)))

        run(outline())

    def test_what_a_worker_writes_to_stderr_does_not_stop_it(self, run: Run):
        async def outline() -> int:
            return await WorkerPool(1, 5).run(os.write, 2, bytes(10**6))

        assert run(outline()) == 10**6

    def test_the_event_loop_goes_on_meanwhile(self, run: Run):
        async def outline() -> int:
            pool, turns = WorkerPool(1, 20), 0
            await pool.run(os.getpid)
            call = asyncio.ensure_future(pool.run(time.sleep, 0.5))
            while not call.done():
                await asyncio.sleep(0.01)
                turns += 1
            return turns

        assert run(outline()) > 2

    def test_a_loop_that_runs_forever_keeps_its_workers(self):
        """As in a Ray Serve replica, where no task but those of requests exists."""
        pool = WorkerPool(2, 20)

        with forever() as submit:
            short, long = submit(pool.run(os.getpid)), submit(pool.run(time.sleep, 0.5))
            first = short.result(20)
            long.result(20)
            assert alive(first)
            assert alive(submit(pool.run(os.getpid)).result(20))

    def test_a_process_does_not_import_torch(self, root: Path):
        program = "import sys, serve.media; print(*({'torch', 'ray'} & set(sys.modules)))"
        command = [sys.executable, "-c", program]
        paths = os.pathsep.join([str(root / "platform"), str(root)])
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == ""
