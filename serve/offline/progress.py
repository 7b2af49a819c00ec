"""Progress of a batch: rows, rate and the time that is left; a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lladav.terminal import format_seconds
from serve.offline.output import RowCounts

WINDOW_SECONDS = 60.0
"""Time over which the rate is measured."""
LINE_SECONDS = 10.0
"""Time between two plain lines."""


class BatchProgress:
    """Shows how far a batch is."""

    def __init__(
        self,
        total: int,
        before: RowCounts,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``before`` counts the rows of earlier runs."""
        self._total, self._clock, self._console = total, clock, console
        self.counts = RowCounts()
        self.counts.add(before)
        self._samples = deque([(clock(), before.rows)])
        self._shown_at = clock()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("rows", total=total, completed=before.rows, text="")

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, new: RowCounts) -> None:
        """Count rows that now have a result."""
        self.counts.add(new)
        now = self._clock()
        self._samples.append((now, self.counts.rows))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW_SECONDS:
            self._samples.popleft()
        self._bar.update(self._task, completed=self.counts.rows, text=self.line)
        if not self._console.is_terminal and now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            self._console.print(self.line, highlight=False, soft_wrap=True)

    @property
    def rate(self) -> float:
        """Rows per second, recently."""
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def line(self) -> str:
        """One line about the state."""
        done, rate = self.counts.rows, self.rate
        left = f", {format_seconds((self._total - done) / rate)} left" if rate else ""
        failed = f", {self.counts.failed:,} with an error" if self.counts.failed else ""
        return f"{done:,} of {self._total:,} rows, {rate:.1f} rows/s{left}{failed}"
