"""The line of progress: rows, the rate of the last minute, and the time that is left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from serve.offline.output import RowCounts
from serve.offline.progress import BatchProgress
from tests.serve.offline.clocks import Clock


def test_lines_have_rows_rate_and_time_left() -> None:
    clock, output = Clock(), io.StringIO()
    with BatchProgress(1000, RowCounts(100), Console(file=output), clock) as progress:
        for clock.now in (5.0, 10.0):
            progress.add(RowCounts(20, 1, 40))
    assert output.getvalue() == "140 of 1,000 rows, 4.0 rows/s, 3:35 left, 2 with an error\n"
    assert progress.counts == RowCounts(140, 2, 80)


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = Clock()
    progress = BatchProgress(100_000, RowCounts(), Console(file=io.StringIO()), clock)
    assert progress.rate == 0
    for clock.now in range(1, 1001):
        progress.add(RowCounts(1 if clock.now <= 900 else 7))
    assert progress.rate == pytest.approx(7)


def test_a_terminal_shows_a_bar() -> None:
    output = io.StringIO()
    with BatchProgress(10, RowCounts(), Console(file=output, force_terminal=True, width=100)) as progress:
        progress.add(RowCounts(10))
    assert "10 of 10 rows" in output.getvalue()
