"""The log of a run holds every step once, whatever happened in between."""

from __future__ import annotations

import json
from pathlib import Path

from lladav.storage import location
from train.steplog import LOG, StepLog, read_steps


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_steps(folder / LOG)]


def write(folder: Path, first: int, last: int) -> None:
    with StepLog(location(folder), first) as log:
        for step in range(first + 1, last + 1):
            log.write({"step": step, "loss": float(step), "loss_answer": None})


def test_a_restart_writes_the_repeated_steps_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 7)
    write(tmp_path, 5, 9)
    assert steps(tmp_path) == list(range(1, 10))


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, 3)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 4, "lo')
    assert steps(tmp_path) == [1, 2, 3]
    write(tmp_path, 3, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_losses_survive_bit_for_bit(tmp_path: Path) -> None:
    loss = 0.1 + 0.2
    with StepLog(location(tmp_path), 0) as log:
        log.write({"step": 1, "loss": loss})
    assert json.loads((tmp_path / LOG).read_text())["loss"] == loss


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, 3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert "loss_answer" not in events.Tags()["scalars"]
