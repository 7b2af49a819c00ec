"""A run's folder: what counts as a checkpoint, what a crash leaves behind, and whose folder it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lladav.config import load
from lladav.errors import UserError
from lladav.schema import Config
from train.runs import STATE, Run


def settings(storage: Path, *more: str) -> Config:
    return load(["stage=si", "model=tiny", "data=digits", f"train.storage={storage}", *more])


def write(run: Run, step: int, commit: bool = True) -> None:
    """A checkpoint's folder, committed or as a crash leaves it."""
    place = run.checkpoint_place(step)
    place.create()
    (place / "shard").write_text("x")
    if commit:
        run.commit(step, 100, 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.of(settings(tmp_path))


def test_a_checkpoint_counts_once_it_is_committed(run: Run) -> None:
    assert run.latest() is None
    assert run.committed_step() == 0
    write(run, 10)
    write(run, 20, commit=False)
    latest = run.latest()
    assert latest is not None
    assert (latest.step, latest.total_steps, latest.workers, latest.final) == (10, 100, 1, False)
    assert run.committed_step() == 10


def test_what_a_crash_left_behind_is_swept_away(run: Run) -> None:
    write(run, 10)
    write(run, 20, commit=False)
    run.sweep()
    assert run.place.folders() == [run.checkpoint_place(10).path.rsplit("/", 1)[1]]


def test_pruning_keeps_the_newest(run: Run) -> None:
    for step in (10, 20, 30):
        write(run, step)
    run.prune(keep=2)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [20, 30]


def test_a_checkpoint_half_removed_does_not_count(run: Run) -> None:
    write(run, 10)
    (run.checkpoint_place(10) / STATE).delete_file()
    assert run.latest() is None


def test_the_last_step_makes_a_run_final(run: Run) -> None:
    write(run, 100)
    latest = run.latest()
    assert latest is not None
    assert latest.final


def test_settings_of_another_meaning_are_refused_and_change_nothing(tmp_path: Path, run: Run) -> None:
    run.bind(settings(tmp_path))
    before = (run.place / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"started with train\.seed=42, now 7.*train\.run="):
        run.bind(settings(tmp_path, "train.seed=7"))
    assert (run.place / "config.yaml").read_text() == before


def test_settings_that_do_not_change_meaning_are_taken(tmp_path: Path, run: Run) -> None:
    run.bind(settings(tmp_path))
    run.bind(settings(tmp_path, "train.micro_batch=2", "train.checkpoint_every=7"))
    assert run.config().train.checkpoint_every == 7


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = settings(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be written .*set train\.storage"):
        Run.of(config).bind(config)
