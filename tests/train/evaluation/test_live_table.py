"""The demo's progress: a table in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from train.evaluation.live_table import BARS, LiveTable, curve, progress_table
from train.trainer.step_log import LOG

HEADLINE = "si       5000 samples, 157 steps; global batch 32 = 32 x 1 accumulated x 1 workers"
STEP = "si       step   4/157  loss  0.235  answer tokens  0.249    37.9 samples/s"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        {"step": step, "loss": 1 / step, "seconds": 2.0, "samples_per_second": 16.0} for step in range(1, 5)
    ]
    (tmp_path / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def drawn(runs: dict[str, Path], steps: dict[str, int]) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_table(runs, steps))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_has_step_rate_and_time_left_of_each_stage(run: Path):
    _, training, waiting = drawn({"si": run, "ov": run / "none"}, {"si": 157})
    assert training.split()[:5] == ["si", "4/157", "0.521", "16", "5:06"]
    assert waiting == "ov"


def test_a_finished_stage_has_no_time_left(run: Path):
    assert "done" in drawn({"si": run}, {"si": 4})[1]


def test_the_curve_falls_with_the_loss():
    line = curve([8.0, 8.0, 4.0, 4.0, 1.0, 1.0], width=3)
    assert [BARS.index(bar) for bar in line] == [7, 4, 1]
    assert curve([]) == ""
    assert len(curve([1.0] * 100)) == 24


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_of_steps_are_left_out_in_a_terminal_only(run: Path, terminal: bool):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    table = LiveTable({"si": run}, console)
    with table.shown():
        for line in (HEADLINE, STEP, "[markup] stays"):
            table.show(line)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert HEADLINE in text
    assert "[markup] stays" in text
    assert (STEP in text) is not terminal
    assert ("0.521" in text) is terminal
