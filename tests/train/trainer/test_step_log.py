"""The log of a run holds every step once, whatever happened in between."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lladav.storage import files, location, read_text
from train.trainer.step_log import LOG, StepLog, read_steps


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_steps(folder / LOG)]


def board(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    """Steps and values that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    shown = events.Scalars(name) if name in events.Tags()["scalars"] else []
    return [(event.step, event.value) for event in shown]


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


def test_tensorboard_keeps_the_steps_before_a_restart(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    begin = int(time.time())
    # TensorBoard reads files in the order of their names, which contain seconds.
    while int(time.time()) == begin:
        time.sleep(0.01)
    write(tmp_path, 3, 6)
    assert [step for step, _ in board(tmp_path)] == list(range(1, 7))


def test_a_crash_while_a_log_is_opened_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 0, 5)

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        StepLog(location(tmp_path), 3)
    assert steps(tmp_path) == list(range(1, 6))


def test_a_log_in_a_bucket_is_continued(bucket: str) -> None:
    for first, last in ((0, 4), (2, 6)):
        with StepLog(location(bucket), first) as log:
            for step in range(first + 1, last + 1):
                log.write({"step": step})
    rows = read_text(location(bucket) / LOG).splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 7))


def test_a_log_in_a_bucket_is_uploaded_when_a_run_fails(bucket: str) -> None:
    with suppress(ZeroDivisionError), StepLog(location(bucket), 0) as log:
        log.write({"step": 1})
        raise ZeroDivisionError
    assert json.loads(read_text(location(bucket) / LOG)) == {"step": 1}


def test_losses_survive_bit_for_bit(tmp_path: Path) -> None:
    loss = 0.1 + 0.2
    with StepLog(location(tmp_path), 0) as log:
        log.write({"step": 1, "loss": loss})
    assert json.loads((tmp_path / LOG).read_text())["loss"] == loss


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path, 0, 3)
    assert board(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert board(tmp_path, "loss_answer") == []
