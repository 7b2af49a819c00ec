"""Clients that disconnect at any moment leave nothing behind: no row, no memory, no task."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.serve.apis import NAME, LocalEngines
from tests.serve.clusters import ask
from tests.serve.images import encoded, uri
from tests.waiting import wait_for

pytestmark = [pytest.mark.proof, pytest.mark.slow]
SHORT, LONG = 60, 1000
AT_A_TIME, PATIENCE = 24, 0.4
"""Clients at a time, and the seconds after which all have disconnected."""


def test_a_disconnected_client_leaves_nothing_behind(api: str, engines: LocalEngines, full: bool) -> None:
    count = LONG if full else SHORT
    left = asyncio.run(_come_and_go(api, count))
    wait_for(lambda: not (engines.engine.busy or engines.worker._answers), lambda: engines.worker.load)
    kv_cache = engines.engine.kv_cache
    assert kv_cache.free_blocks == kv_cache.total_blocks
    assert left >= count // 2
    print(f"\n{left} of {count} clients disconnected before their answer; nothing is left behind")
    assert asyncio.run(_one(api)).ok


async def _come_and_go(api: str, count: int) -> int:
    random.seed(0)
    gate = asyncio.Semaphore(AT_A_TIME)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        left = await asyncio.gather(*(_leaves(session, gate, api, number) for number in range(count)))
    return sum(left)


async def _leaves(session: aiohttp.ClientSession, gate: asyncio.Semaphore, api: str, number: int) -> bool:
    """Whether the client disconnected before its answer arrived."""
    async with gate:
        try:
            async with asyncio.timeout(random.uniform(0, PATIENCE)):
                await ask(session, api, **_request(number))
        except TimeoutError:
            return True
        return False


def _request(number: int) -> dict[str, Any]:
    """Long answers: whole or streamed, about text or an image, one or two."""
    text: dict[str, Any] = {"type": "text", "text": "Count."}
    image = {"type": "image_url", "image_url": {"url": uri(encoded(Image.new("RGB", (40, 30), number)))}}
    return {
        "messages": [{"role": "user", "content": [image, text] if number % 5 == 0 else [text]}],
        "max_tokens": 256,
        "ignore_eos": True,
        "stream": number % 3 != 0,
        "stream_mode": "denoise" if number % 2 else "committed",
        "refresh_interval": {"min": 1, "max": 16} if number % 7 else 1,
        "n": 1 + number % 2,
    }


async def _one(api: str) -> Any:
    async with aiohttp.ClientSession() as session:
        return await ask(session, api, model=NAME)
