"""Memory stays flat over many requests of all kinds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from PIL import Image

from tests.serve.clusters import Outcome, ask
from tests.serve.images import encoded, uri

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(300)]
SHORT, LONG = 80, 10_000
CLIENTS = 16
WARM_UP = 0.2
"""Share of the requests after which memory must be flat. The short form ends while caches still fill."""
MAX_GROWTH, MAX_CACHE_GROWTH = 24 * 2**20, 300 * 2**20
"""Bytes by which a server may grow after that, in the long and the short form."""
SERVER = """
import sys, time
from pathlib import Path
from tests.serve.apis import LocalEngines, serving, settings_of
if __name__ == "__main__":
    settings = settings_of(Path(sys.argv[1]))
    with serving(settings, LocalEngines(settings)) as address:
        print(address, flush=True)
        sys.stdin.read()
"""
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}


@pytest.fixture
def server(model_folder: Path, tmp_path: Path, root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The API in its own process, so that its memory can be measured."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with subprocess.Popen(
        [sys.executable, str(script), str(model_folder)],
        env={"PYTHONPATH": f"{root}:{root / 'platform'}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
        process.kill()


def test_memory_stays_flat(server: tuple[str, psutil.Process], full: bool) -> None:
    address, process = server
    count = LONG if full else SHORT
    warm_up = round(WARM_UP * count)
    asyncio.run(_requests(address, range(warm_up)))
    warm = process.memory_info().rss
    outcomes = asyncio.run(_requests(address, range(warm_up, count)))
    grown = process.memory_info().rss - warm
    statuses = Counter(outcome.status for outcome in outcomes)
    print(
        f"\n{count} requests, statuses {dict(statuses)}; {grown / 2**20:.1f} MiB more than {warm / 2**20:.0f}"
    )
    assert set(statuses) == {200, 400}
    assert all(outcome.ok for outcome in outcomes if outcome.status == 200)
    assert grown < (MAX_GROWTH if full else MAX_CACHE_GROWTH)


async def _requests(address: str, numbers: range) -> list[Outcome]:
    semaphore = asyncio.Semaphore(CLIENTS)

    async def one(session: aiohttp.ClientSession, number: int) -> Outcome:
        async with semaphore:
            return await ask(session, address, **_request(number))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(one(session, number) for number in numbers))


def _request(number: int) -> dict[str, Any]:
    """Texts, images of which some repeat, streams, JSON, and invalid requests."""
    text: dict[str, Any] = {"type": "text", "text": f"Count to {number}."}
    image = Image.new("RGB", (40, 30), number if number % 2 else 7)
    part = {"type": "image_url", "image_url": {"url": uri(encoded(image))}}
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    kinds: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [text]}]},
        {"messages": [{"role": "user", "content": [part, text]}]},
        {"stream": True, "temperature": 1.0, "n": 2},
        {"stream": True, "stream_mode": "denoise", "refresh_interval": 4},
        {"response_format": shape},
        {"stop": ["a", "bc"], "threshold": 0.5, "refresh_interval": {"min": 2, "max": 8}},
        {"refresh_interval": 1000},
        {"no_such_field": json.dumps(number)},
    ]
    return {"max_tokens": 16, **kinds[number % len(kinds)]}
