"""A table of a curriculum's progress for a terminal, from the logs of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from train.trainer.progress import format_seconds
from train.trainer.step_log import LOG, read_steps

BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 24
"""Characters of the curve of losses."""

RECENT = 10
"""Steps whose mean is the shown loss and rate."""

REFRESHES = 2
"""Refreshes per second."""

STEP = re.compile(r"^\w+ +step +\d+/\d+ ")
"""A line of a run about a step, which the table shows."""
STAGE = re.compile(r"^(?P<stage>\w+) +\d+ samples, (?P<steps>\d+) steps;")
"""The line at the start of a stage."""


class LiveTable:
    """Shows the progress of a curriculum: as a table in a terminal, else as lines."""

    def __init__(self, runs: Mapping[str, Path], console: Console | None = None) -> None:
        """``runs`` are the folders of the stages' runs."""
        self._runs, self._console = runs, console or Console()
        self._steps: dict[str, int] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table up to date while the block runs; the last one stays."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, get_renderable=self.table, refresh_per_second=REFRESHES):
            yield

    def show(self, line: str) -> None:
        """Show a line of the commands' output, unless the table has what it says."""
        if found := STAGE.match(line):
            self._steps[found["stage"]] = int(found["steps"])
        if not (self._console.is_terminal and STEP.match(line)):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def table(self) -> Table:
        """The table of this moment."""
        return progress_table(self._runs, self._steps)


def progress_table(runs: Mapping[str, Path], steps: Mapping[str, int]) -> Table:
    """A row for each stage: step, loss, rate, time left and curve.

    ``runs`` are the folders of the stages' runs, and ``steps`` the numbers of steps that are known.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "step", "loss", "samples/s", "ETA"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    table.add_column("loss curve")
    for stage, folder in runs.items():
        rows = read_steps(folder / LOG)
        table.add_row(*_row(stage, rows, steps.get(stage)), style="" if rows else "dim")
    return table


def curve(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """Values as a line of bars: means of ``width`` equal parts, the largest as the highest bar."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(means, default=0.0) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int(mean / top * len(BARS)))] for mean in means)


def _row(stage: str, rows: Sequence[Mapping[str, Any]], total: int | None) -> list[str]:
    if not rows:
        return [stage, *[""] * 5]
    recent = rows[-RECENT:]
    seconds = sum(row["seconds"] for row in recent) / len(recent)
    step = rows[-1]["step"]
    left = ((total or step) - step) * seconds
    return [
        stage,
        f"{step}/{total or step}",
        f"{sum(row['loss'] for row in recent) / len(recent):.3f}",
        f"{sum(row['samples_per_second'] for row in recent) / len(recent):.0f}",
        format_seconds(left) if left else "done",
        curve([row["loss"] for row in rows]),
    ]
