"""Ways to keep an event loop responsive: threads for long work, and one call for many callers.

A thread helps only if no single call holds the GIL for long; ``BodyReader`` bounds such calls.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class ThreadOffloader:
    """Runs functions in its own threads; asyncio's default threads also resolve host names."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result. A call that is cancelled before it starts never runs."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


class CollectionPause:
    """Pauses garbage collection while any thread is inside.

    Collecting a hundred thousand new objects stops all threads for 100 ms. Memory without cycles is freed as
    ever.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            gc.disable()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                gc.enable()


COMPILING = CollectionPause()
"""Entered while a structure is compiled: automata are many small objects."""


class SingleFlight(Generic[T]):
    """An expensive call whose result is shared: by all who ask while it runs, and for ``seconds`` after that.

    An exception is shared in the same way.
    """

    def __init__(self, call: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._task: asyncio.Task[T] | None = None
        self._fresh_until = 0.0

    async def get(self) -> T:
        """The result. The call continues if the caller that started it is cancelled."""
        task = self._task
        if task is None or (task.done() and time.monotonic() >= self._fresh_until):
            task = self._task = asyncio.create_task(self._run())
        return await asyncio.shield(task)

    async def _run(self) -> T:
        try:
            return await self._call()
        finally:
            self._fresh_until = time.monotonic() + self._seconds
