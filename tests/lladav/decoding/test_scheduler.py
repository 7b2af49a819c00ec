"""Who is admitted and who runs: in order, within the budget, and nobody is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.scheduler import Scheduler


def scheduler(rows: int = 8, positions: int = 100) -> Scheduler:
    return Scheduler(max_rows=rows, refresh_positions=positions)


def test_requests_start_in_order_and_nothing_overtakes() -> None:
    waits, asked = scheduler(), []
    for name in "abc":
        waits.add(name)

    def start(request: str) -> bool:
        asked.append(request)
        if request != "b":
            waits.due(request, 10, refresh=True)
        return request != "b"

    waits.admit(start)
    assert asked == ["a", "b"]
    assert waits.waiting == ["b", "c"]
    assert waits.running == ["a"]


def test_no_more_rows_than_there_may_be() -> None:
    waits = scheduler(rows=2)
    for name in "abc":
        waits.add(name)
    waits.admit(lambda request: waits.due(request, 10, refresh=True) is None)
    assert waits.waiting == ["c"]


def test_cached_steps_always_run_and_refreshes_share_the_budget() -> None:
    waits = scheduler(positions=100)
    for name, positions, refresh in [("a", 60, True), ("b", 500, False), ("c", 40, True), ("d", 1, True)]:
        waits.due(name, positions, refresh)
    assert sorted(waits.choose()) == ["a", "b", "c"]


def test_a_refresh_longer_than_the_budget_runs_alone() -> None:
    waits = scheduler(positions=100)
    waits.due("a", 1000, refresh=True)
    waits.due("b", 10, refresh=True)
    assert waits.choose() == ["a"]


def test_a_dropped_request_is_gone_wherever_it_was() -> None:
    waits = scheduler()
    waits.add("a")
    waits.due("b", 10, refresh=True)
    for name in "ab?":
        waits.drop(name)
    assert waits.waiting == waits.running == waits.choose() == []


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(1, 120),
)
def test_every_refresh_runs_within_as_many_steps_as_there_are_rows(
    rows: list[tuple[int, int]], budget: int
) -> None:
    waits = scheduler(rows=len(rows), positions=budget)
    since = dict.fromkeys(range(len(rows)), 0)
    steps = dict.fromkeys(range(len(rows)), 0)
    for row, (positions, _) in enumerate(rows):
        waits.due(str(row), positions, refresh=True)
    for clock in range(1, 60):
        for row in map(int, waits.choose()):
            positions, interval = rows[row]
            assert clock - since[row] <= len(rows)
            since[row], steps[row] = clock, steps[row] + 1
            waits.due(str(row), positions, refresh=steps[row] % interval == 0)
    assert min(steps.values()) >= 59 // len(rows)
