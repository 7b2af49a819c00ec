"""The log of a run holds every step once, whatever happened in between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lladav.storage import files, location, read_text
from train.trainer.step_log import ANSWERS, LOG, StepLog, read_steps
from train.trainer.tracking.tracker import Tracker, ValidationAnswer


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


class Seen(Tracker):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int, dict[str, float]]] = []
        self.answers: list[tuple[int, list[str]]] = []
        self.closed = False

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.numbers.append((step, dict(numbers)))

    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        self.answers.append((step, [answer.id for answer in answers]))

    def close(self) -> None:
        self.closed = True


def test_trackers_get_the_same_numbers(tmp_path: Path) -> None:
    seen = Seen()
    with StepLog(location(tmp_path), 0, lambda _: [seen]) as log:
        log.write({"step": 1, "loss": 2.0, "loss_answer": None})
        assert not seen.closed
    assert seen.numbers == [(1, {"loss": 2.0})]
    assert seen.closed


def test_answers_of_repeated_steps_are_written_once(tmp_path: Path) -> None:
    answer, seen = ValidationAnswer("a", "How many?", "7", "7 "), Seen()
    for first, steps_ in ((0, (2, 4)), (2, (4, 6))):
        with StepLog(location(tmp_path), first, lambda _: [seen]) as log:
            for step in steps_:
                log.show(step, [answer])
    rows = read_steps(tmp_path / ANSWERS)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[0] == {
        "step": 2,
        "id": "a",
        "question": "How many?",
        "answer": "7",
        "expected": "7 ",
        "correct": True,
    }
    assert seen.answers == [(2, ["a"]), (4, ["a"]), (4, ["a"]), (6, ["a"])]
