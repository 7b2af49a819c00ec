"""Measure how long an event loop is blocked, on a machine with other work."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

TICK = 0.001


class Stalls:
    """Measures the longest time for which an event loop is blocked.

    A late tick is a stall, limited to the CPU time of this process: a loop that waits for a CPU is not
    blocked by its own work. CPU time of threads counts, because they may hold the GIL.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def during(self, awaited: Awaitable[object]) -> None:
        """Measure while ``awaited`` runs."""
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            await awaited
            await asyncio.sleep(2 * TICK)  # for the tick that measures the last stall
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
    """The minimum over attempts of the longest stall; stops at the first of at most ``enough``.

    Code that blocks the loop does so in every attempt; other work on the machine does not.
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
def frozen_heap() -> Iterator[None]:
    """Exclude objects of the test run from garbage collection, as an ingress does with its own."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
