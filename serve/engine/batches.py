"""Several engine requests as one: their answers are numbered in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import accumulate
from typing import Any, TypeVar

from serve.engine.client import Engines
from serve.engine.messages import EngineRequest, Event, Finished

E = TypeVar("E", bound=Event)


async def answer_all(engines: Engines, requests: Sequence[EngineRequest]) -> list[Finished]:
    """All answers of some requests, in order. The first ``ApiError`` cancels the other requests."""
    tasks = [asyncio.create_task(engines.answer(request)) for request in requests]
    try:
        answered = await asyncio.gather(*tasks)
    finally:
        _cancel(tasks)
    pairs = zip(_offsets(requests), answered, strict=True)
    return [each for offset, finished in pairs for each in _renumbered(finished, offset)]


def events_of_all(engines: Engines, requests: Sequence[EngineRequest]) -> AsyncGenerator[list[Event], None]:
    """Events of some requests as they happen. Closing the generator or the first ``ApiError`` cancels all."""
    return engines.events(requests[0]) if len(requests) == 1 else _merged(engines, requests)


async def _merged(engines: Engines, requests: Sequence[EngineRequest]) -> AsyncGenerator[list[Event], None]:
    queue: asyncio.Queue[list[Event] | None] = asyncio.Queue()

    async def collect(request: EngineRequest, offset: int) -> None:
        async with aclosing(engines.events(request)) as events:
            async for some in events:
                queue.put_nowait(list(_renumbered(some, offset)))

    pairs = zip(requests, _offsets(requests), strict=True)
    tasks = [asyncio.create_task(collect(*pair)) for pair in pairs]
    ended = asyncio.gather(*tasks)
    everything: list[asyncio.Future[Any]] = [*tasks, ended]
    ended.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (some := await queue.get()) is not None:
            yield some
        await ended
    finally:
        _cancel(tasks)
        await asyncio.gather(*everything, return_exceptions=True)


def _offsets(requests: Sequence[EngineRequest]) -> Iterator[int]:
    """The number of each request's first answer."""
    return accumulate((request.choices for request in requests[:-1]), initial=0)


def _renumbered(events: Iterable[E], offset: int) -> Iterator[E]:
    return (replace(event, choice=event.choice + offset) for event in events)


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
