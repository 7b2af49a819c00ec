"""Worker processes: a call that hangs or dies affects neither other calls nor the event loop."""

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

from serve.errors import ApiError
from serve.media import loader
from serve.media.loader import WorkerPool, WorkerTimeout
from tests.serve.loops import Run, forever

PROGRAM = """
assert __name__ == "__main__", "it runs again"
import asyncio, operator, pathlib
from serve.media.loader import WorkerPool

async def both():
    pool = WorkerPool(2, 60)
    print(*await asyncio.gather(*(pool.run(operator.add, 1, 2) for _ in range(2))))

asyncio.run(both())
print(pathlib.Path(__file__).name)
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines in one event loop, so that its workers are started once."""
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
    """Calls run in other processes, within a time limit."""

    def test_a_call_that_hangs_is_killed_and_the_next_one_works(self, run: Run):
        async def scenario() -> tuple[int, int]:
            pool = WorkerPool(1, 2.0)
            first = await pool.run(os.getpid)
            with pytest.raises(WorkerTimeout):
                await pool.run(time.sleep, 600)
            return first, await pool.run(os.getpid)

        first, second = run(scenario())
        assert len({first, second, os.getpid()}) == 3
        assert not alive(first)

    def test_a_call_that_is_cancelled_is_killed(self, run: Run):
        async def scenario() -> int:
            pool = WorkerPool(1, 60)
            worker = await pool.run(os.getpid)
            call = asyncio.create_task(pool.run(time.sleep, 60))
            await asyncio.sleep(0.2)
            call.cancel()
            await asyncio.wait([call])
            return worker

        assert not alive(run(scenario()))

    def test_the_next_call_uses_a_worker_whose_caller_was_cancelled(self, run: Run):
        async def scenario() -> tuple[set[int], int]:
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

        started, used = run(scenario())
        assert started == {used}

    def test_a_worker_that_dies_fails_only_its_own_call(self, run: Run):
        async def scenario() -> int:
            pool = WorkerPool(1, 20)
            with pytest.raises(BrokenWorkerProcess):
                await pool.run(os._exit, 1)
            return await pool.run(os.getpid)

        assert run(scenario()) != os.getpid()

    def test_the_wait_for_a_worker_does_not_count(self, run: Run):
        async def scenario() -> None:
            pool = WorkerPool(1, 2.0)
            await asyncio.gather(*(pool.run(time.sleep, 0.6) for _ in range(4)))

        run(scenario())

    def test_writing_to_stderr_does_not_block_a_worker(self, run: Run):
        async def scenario() -> int:
            return await WorkerPool(1, 5).run(os.write, 2, bytes(10**6))

        assert run(scenario()) == 10**6

    def test_the_event_loop_keeps_running(self, run: Run):
        async def scenario() -> int:
            pool, turns = WorkerPool(1, 20), 0
            await pool.run(os.getpid)
            call = asyncio.ensure_future(pool.run(time.sleep, 0.5))
            while not call.done():
                await asyncio.sleep(0.01)
                turns += 1
            return turns

        assert run(scenario()) > 2

    def test_a_loop_that_runs_forever_keeps_its_workers(self):
        """As in a Ray Serve replica, whose only tasks are those of requests."""
        pool = WorkerPool(2, 20)

        with forever() as submit:
            short, long = submit(pool.run(os.getpid)), submit(pool.run(time.sleep, 0.5))
            first = short.result(20)
            long.result(20)
            assert alive(first)
            assert alive(submit(pool.run(os.getpid)).result(20))

    def test_the_main_module_is_not_run_again(self, root: Path, tmp_path: Path):
        """In a Ray worker it imports ray, which cannot be done there on Python 3.13."""
        (tmp_path / "program.py").write_text(PROGRAM)
        environment = {"PYTHONPATH": f"{root}:{root / 'platform'}"}
        command = [sys.executable, str(tmp_path / "program.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == "3 3\nprogram.py\n", done.stderr

    def test_a_process_does_not_import_torch(self, root: Path):
        program = "import sys, serve.media.loader; print(*({'torch', 'ray'} & set(sys.modules)))"
        command = [sys.executable, "-c", program]
        paths = os.pathsep.join([str(root / "platform"), str(root)])
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == ""

    def test_a_worker_that_does_not_start_in_time_is_an_error(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ):
        async def start() -> None:
            await WorkerPool(1, 20).run(os.getpid)

        monkeypatch.setattr(loader, "START_SECONDS", 0.0)
        with pytest.raises(ApiError) as caught:
            run(start())
        assert (caught.value.status, caught.value.code) == (503, "decoder_unavailable")
