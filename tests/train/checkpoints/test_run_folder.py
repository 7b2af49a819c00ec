"""A run's folder: committed checkpoints, files of interrupted saves, and the settings it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import TEXT_VERSION
from lladav.storage import make_folder, subfolders
from train.checkpoints.run_folder import STATE, Run
from train.trainer.stage import run_stage


def settings(storage: Path, *more: str) -> Config:
    return load(["stage=si", "model=tiny", "data=digits", f"train.storage={storage}", *more])


def write(run: Run, step: int, commit: bool = True) -> None:
    """Write a checkpoint's folder; not committed, it looks like one of an interrupted save."""
    folder = run.checkpoint_path(step)
    make_folder(folder)
    (folder / "shard").write_text("x")
    if commit:
        run.commit(step, 100, 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.of(settings(tmp_path))


def test_only_a_committed_checkpoint_counts(run: Run) -> None:
    assert run.latest() is None
    assert run.committed_step() == 0
    write(run, 10)
    write(run, 20, commit=False)
    latest = run.latest()
    assert latest is not None
    assert (latest.step, latest.total_steps, latest.workers, latest.final) == (10, 100, 1, False)
    assert run.committed_step() == 10


def test_files_of_an_interrupted_save_are_removed(run: Run) -> None:
    write(run, 10)
    write(run, 20, commit=False)
    run.remove_uncommitted()
    assert subfolders(run.path) == [run.checkpoint_path(10).name]


def test_pruning_keeps_the_newest(run: Run) -> None:
    for step in (10, 20, 30):
        write(run, step)
    run.prune(keep=2)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [20, 30]


def test_a_partly_removed_checkpoint_does_not_count(run: Run) -> None:
    write(run, 10)
    (run.checkpoint_path(10) / STATE).unlink()
    assert run.latest() is None


def test_the_last_step_makes_a_run_final(run: Run) -> None:
    write(run, 100)
    latest = run.latest()
    assert latest is not None
    assert latest.final


def test_settings_of_another_meaning_are_refused_and_change_nothing(tmp_path: Path, run: Run) -> None:
    run.bind(settings(tmp_path))
    before = (run.path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"started with train\.seed=42, now 7.*train\.run="):
        run.bind(settings(tmp_path, "train.seed=7"))
    assert (run.path / "config.yaml").read_text() == before


def test_settings_that_do_not_change_meaning_are_accepted(tmp_path: Path, run: Run) -> None:
    run.bind(settings(tmp_path))
    run.bind(settings(tmp_path, "train.micro_batch=2", "train.checkpoint_every=7"))
    assert run.config().train.checkpoint_every == 7


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = settings(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be written .*set train\.storage"):
        Run.of(config).bind(config)


def forget_text_version(run: Run, step: int) -> None:
    """Make a committed checkpoint look like one of a version that wrote no ``text_version``."""
    state = run.checkpoint_path(step) / STATE
    values = json.loads(state.read_text())
    assert values.pop("text_version") == TEXT_VERSION
    state.write_text(json.dumps(values))


def test_a_run_of_another_text_processing_is_not_resumed(tmp_path: Path, run: Run) -> None:
    write(run, 10)
    forget_text_version(run, 10)
    with pytest.raises(UserError) as error:
        run_stage(settings(tmp_path))
    line = str(error.value)
    assert line.startswith(
        f"run {run.name} was trained with text processing 1, this version has {TEXT_VERSION}"
    )
    assert "train.run=<new name> train.init=" in line
    assert "\n" not in line


def test_a_finished_run_of_another_text_processing_stays_done(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, 100)
    forget_text_version(run, 100)
    run_stage(settings(tmp_path))
    assert "done: 100 steps" in capsys.readouterr().out
