"""Ways to keep an event loop free: threads for long work, and results that are shared for a while.

A thread helps only if no single call holds the GIL for long; see ``serve.api.reading`` for what bounds them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class ThreadOffloader:
    """Calls functions in threads of its own: asyncio's default ones also look up the names of hosts."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result. A call that is cancelled before it begins never runs."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


class SingleFlight(Generic[T]):
    """A result that is costly to get: one call serves all who ask while it runs and ``seconds`` longer.

    A failure is shared in the same way.
    """

    def __init__(self, find: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._find, self._seconds = find, seconds
        self._found: asyncio.Task[T] | None = None
        self._fresh_until = 0.0

    async def get(self) -> T:
        """The result; the call continues when the caller that began it is cancelled."""
        found = self._found
        if found is None or (found.done() and time.monotonic() >= self._fresh_until):
            found = self._found = asyncio.create_task(self._call())
        return await asyncio.shield(found)

    async def _call(self) -> T:
        try:
            return await self._find()
        finally:
            self._fresh_until = time.monotonic() + self._seconds
