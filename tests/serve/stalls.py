"""How long an event loop is blocked, on a machine that does other work at the same time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

TICK = 0.001


class Stalls:
    """Measures the longest time in which an event loop did nothing else.

    A tick that comes late is a stall, as long as this process computed in the meantime: a loop that waits for
    a processor is not blocked by what it runs. Threads count, since they hold the GIL.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def during(self, awaited: Awaitable[object]) -> None:
        """Watch while something runs."""
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            await awaited
            await asyncio.sleep(2 * TICK)  # the tick that tells of the last stall
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        wall, busy = time.perf_counter(), time.process_time()
        while True:
            await asyncio.sleep(TICK)
            now, used = time.perf_counter(), time.process_time()
            self.longest = max(self.longest, min(now - wall - TICK, used - busy))
            wall, busy = now, used


async def longest_stall(
    begin: Callable[[], Awaitable[object]], attempts: int = 5, enough: float = 0.0
) -> float:
    """The shortest of the longest stalls of some attempts, the last being the first of at most ``enough``.

    What blocks a loop does so at each attempt; the machine's other work does not.
    """
    found = []
    for _ in range(attempts):
        stalls = Stalls()
        await stalls.during(begin())
        found.append(stalls.longest)
        if stalls.longest <= enough:
            break
    return min(found)


@contextmanager
def settled_heap() -> Iterator[None]:
    """Collections look through what the block makes only, as in an ingress; a test run's heap is large."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
