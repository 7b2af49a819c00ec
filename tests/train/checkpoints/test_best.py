"""The best validation of a run, and the checkpoint that is kept for it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lladav.storage import make_folder
from train.checkpoints.best import BestValidation
from train.checkpoints.run_folder import Checkpoint, Run


def best_of(*losses: float) -> BestValidation:
    """After validations with these losses, one every ten steps."""
    best = BestValidation(10, losses[0])
    for number, loss in enumerate(losses[1:], 2):
        best = best.after(10 * number, loss)
    return best


@pytest.mark.parametrize(
    ("losses", "step", "later"),
    [
        ([3.0], 10, 0),
        ([3.0, 2.0, 1.0], 30, 0),
        ([3.0, 1.0, 2.0, 1.5], 20, 2),
        ([1.0, 1.0], 10, 1),
        ([math.nan, 2.0], 20, 0),
        ([2.0, math.nan, math.nan], 10, 2),
    ],
)
def test_the_lowest_loss_is_the_best(losses: list[float], step: int, later: int) -> None:
    best = best_of(*losses)
    assert (best.step, best.later) == (step, later)


def commit(run: Run, step: int, best: BestValidation | None) -> None:
    make_folder(run.checkpoint_path(step))
    run.commit(step, 100, 1, best)


@pytest.mark.parametrize("loss", [1.25, math.nan])
def test_a_checkpoint_has_the_best_validation_so_far(tmp_path: Path, loss: float) -> None:
    run, best = Run(str(tmp_path), "run"), BestValidation(10, loss, 2)
    commit(run, 30, best)
    latest = run.latest()
    assert isinstance(latest, Checkpoint)
    assert repr(latest.best) == repr(best)


def test_pruning_keeps_the_best_checkpoint_beside_the_newest(tmp_path: Path) -> None:
    run, best = Run(str(tmp_path), "run"), BestValidation(20, 1.0)
    commit(run, 10, BestValidation(10, 2.0))
    for step in (20, 30, 40):
        commit(run, step, best)
    run.prune(keep=1)
    assert [each.step for each in run.checkpoints()] == [20, 40]
    kept = run.best()
    assert kept is not None
    assert kept.step == 20
    commit(run, 50, BestValidation(50, 0.5))
    run.prune(keep=1)
    assert [each.step for each in run.checkpoints()] == [50]


def test_a_run_without_validations_has_no_best_checkpoint(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "run")
    assert run.best() is None
    commit(run, 10, None)
    assert run.best() is None
    assert "best" not in (tmp_path / "run" / "checkpoint-00000010" / "state.json").read_text()
