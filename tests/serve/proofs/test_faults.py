"""The application under twice its capacity, and with a replica that hangs.

``tests/serve/test_on_ray.py`` checks in seconds how overload and a lost replica are reported. These tests
take minutes, and only ``--full`` runs them.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.serve.clusters import ConstantLoad, Outcome, Served, ask, cluster

pytestmark = [pytest.mark.proof, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = 4
SETTINGS = {
    "engine__min_replicas": 2,
    "engine__max_replicas": 2,
    "engine__cpus": 0.5,
    "engine__max_rows": ROWS,
    "engine__max_waiting": ROWS,
    "engine__max_queued": 2 * ROWS,  # a request counts as queued while a replica is sought, too
    "engine__step_seconds": 5.0,
}
ANSWER = {"max_tokens": 64, "ignore_eos": True}
CAPACITY_SECONDS = 40.0
OVERLOAD_SECONDS = 300.0
GOODPUT = 0.7
"""Share of its capacity that an overloaded server must still answer."""


@pytest.fixture(scope="module")
def served(model_folder: Path, takes_minutes: None) -> Iterator[Served]:  # noqa: ARG001
    with cluster(model_folder, **SETTINGS) as running:
        yield running


def test_twice_the_capacity_leaves_goodput_and_clear_refusals(served: Served) -> None:
    capacity = _capacity(served, CAPACITY_SECONDS)
    outcomes = asyncio.run(_arrivals(served, 2 * capacity, OVERLOAD_SECONDS))
    admitted, refused = _parted(outcomes)
    goodput = len(admitted) / OVERLOAD_SECONDS
    times = sorted(outcome.seconds for outcome in admitted)
    p99 = times[round(0.99 * (len(times) - 1))]
    share = f"{goodput / capacity:.0%} of the capacity answered, {len(refused)} of {len(outcomes)} refused"
    took = f"p50 {statistics.median(times):.2f} s, p99 {p99:.2f} s"
    print(f"\n{2 * capacity:.1f} requests/s for {OVERLOAD_SECONDS:.0f} s: {share}; {took}")
    assert {(outcome.status, _code(outcome)) for outcome in refused} <= {(503, "saturated")}
    assert all(outcome.retry_after for outcome in refused)
    assert goodput > GOODPUT * capacity


def test_a_replica_that_hangs_is_replaced(served: Served) -> None:
    victim = served.engines()[0]
    with ConstantLoad(served.address, clients=ROWS, given=ANSWER) as load:
        load.wait_for(ROWS)
        victim.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        while any(process.pid == victim.pid for process in served.engines()) or len(served.engines()) < 2:
            assert time.monotonic() < begin + 240
            time.sleep(0.5)
        replaced = time.monotonic() - begin
        load.wait_for(4 * ROWS)
    failed = Counter(_code(outcome) for outcome in load.outcomes if not outcome.ok)
    answered = len(load.outcomes) - failed.total()
    counts = f"{answered} answered, failed {dict(failed)}"
    print(f"\na stopped replica was replaced after {replaced:.0f} s; {counts}")
    assert set(failed) <= {"replica_lost"}
    assert failed.total() <= 2 * ROWS


def _capacity(served: Served, seconds: float) -> float:
    """Answers per second where as many ask as there are rows."""
    with ConstantLoad(served.address, clients=2 * ROWS, given=ANSWER) as load:
        load.wait_for(2 * ROWS)
        first, begin = len(load.outcomes), time.monotonic()
        load.wait_for(4 * ROWS)
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        count, spent = len(load.outcomes) - first, time.monotonic() - begin
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    return count / spent


async def _arrivals(served: Served, rate: float, seconds: float) -> list[Outcome]:
    """Requests that come at a rate, whatever becomes of the others."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for _ in range(round(rate * seconds)):
            tasks.append(asyncio.create_task(ask(session, served.address, **ANSWER)))
            await asyncio.sleep(1 / rate)
        return await asyncio.gather(*tasks)


def _parted(outcomes: list[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Those that were answered, and the others."""
    return [each for each in outcomes if each.ok], [each for each in outcomes if not each.ok]


def _code(outcome: Outcome) -> str | None:
    return outcome.error["code"] if outcome.error else None
