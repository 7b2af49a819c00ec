"""Admission and scheduling: in order, within the budget, and without starvation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.scheduler import Scheduler


def scheduler(rows: int = 8, positions: int = 100) -> Scheduler:
    return Scheduler(max_rows=rows, refresh_positions=positions)


def test_requests_start_in_the_order_of_arrival() -> None:
    queue, asked = scheduler(), []
    for name in "abc":
        queue.add(name)

    def start(request: str) -> bool:
        asked.append(request)
        if request != "b":
            queue.set_next_step(request, 10, refresh=True)
        return request != "b"

    queue.admit(start)
    assert asked == ["a", "b"]
    assert queue.waiting == ["b", "c"]
    assert queue.running == ["a"]


def test_at_most_max_rows_requests_run() -> None:
    queue = scheduler(rows=2)
    for name in "abc":
        queue.add(name)
    queue.admit(lambda request: queue.set_next_step(request, 10, refresh=True) is None)
    assert queue.waiting == ["c"]


def test_cached_steps_always_run_and_refreshes_share_the_budget() -> None:
    queue = scheduler(positions=100)
    for name, positions, refresh in [("a", 60, True), ("b", 500, False), ("c", 40, True), ("d", 1, True)]:
        queue.set_next_step(name, positions, refresh)
    assert sorted(queue.schedule()) == ["a", "b", "c"]


def test_a_refresh_longer_than_the_budget_runs_alone() -> None:
    queue = scheduler(positions=100)
    queue.set_next_step("a", 1000, refresh=True)
    queue.set_next_step("b", 10, refresh=True)
    assert queue.schedule() == ["a"]


def test_a_removed_request_neither_waits_nor_runs() -> None:
    queue = scheduler()
    queue.add("a")
    queue.set_next_step("b", 10, refresh=True)
    for name in "ab?":
        queue.remove(name)
    assert queue.waiting == queue.running == queue.schedule() == []


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(1, 120),
)
def test_every_refresh_runs_within_as_many_steps_as_there_are_rows(
    rows: list[tuple[int, int]], budget: int
) -> None:
    queue = scheduler(rows=len(rows), positions=budget)
    since = dict.fromkeys(range(len(rows)), 0)
    steps = dict.fromkeys(range(len(rows)), 0)
    for row, (positions, _) in enumerate(rows):
        queue.set_next_step(str(row), positions, refresh=True)
    for clock in range(1, 60):
        for row in map(int, queue.schedule()):
            positions, interval = rows[row]
            assert clock - since[row] <= len(rows)
            since[row], steps[row] = clock, steps[row] + 1
            queue.set_next_step(str(row), positions, refresh=steps[row] % interval == 0)
    assert min(steps.values()) >= 59 // len(rows)
