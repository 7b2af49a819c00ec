"""Killed anywhere, the same command goes on, and each step's loss is that of a run that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lladav.cluster import local_head
from tests.train.trainings import Trainings, train_workers, wait_for
from train.checkpoints.run_folder import PREFIX
from train.trainer.step_log import LOG

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

STEPS, EVERY = 6, 2
SETTINGS = (
    *("stage.global_batch=4", "train.micro_batch=2"),
    *(f"train.max_steps={STEPS}", f"train.checkpoint_every={EVERY}"),
)


@pytest.fixture(scope="module")
def trainings(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Runs on one Ray, which takes seconds to start; ``alone`` is a run that nobody disturbed."""
    with local_head(cpus=3) as head:
        environment = {**head.environment, "RAY_ADDRESS": head.address}
        trainings = Trainings(root, tmp_path_factory.mktemp("resume"), *SETTINGS, environment=environment)
        trainings.finish("alone")
        yield trainings


def test_a_killed_worker_and_a_killed_ray_change_no_loss(trainings: Trainings) -> None:
    """The worker dies after a checkpoint: its failure is none too many."""
    own_ray = dict(os.environ)
    with trainings.begun("killed", "cluster.max_failures=0", environment=own_ray) as process:
        wait_for(lambda: trainings.committed("killed") >= EVERY, "the first checkpoint")
        (worker,) = train_workers(process)
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: trainings.committed("killed") >= 2 * EVERY, "the checkpoint after the restart")
    trainings.finish("killed")
    assert trainings.losses("killed") == trainings.losses("alone")


def test_a_run_whose_worker_dies_before_anything_is_saved_ends(trainings: Trainings) -> None:
    endless = ("train.max_steps=1000", "train.checkpoint_every=1000")
    with trainings.begun("barren", "cluster.max_failures=0", *endless) as process:
        wait_for(lambda: bool(trainings.losses("barren")), "the first step")
        (worker,) = train_workers(psutil.Process())
        worker.kill()
        wait_for(lambda: process.poll() is not None, "the end of the run")
        assert process.wait() == 2
    assert trainings.committed("barren") == 0


def test_two_workers_go_on_where_one_stopped(trainings: Trainings) -> None:
    shutil.copytree(trainings.storage / "alone", trainings.storage / "resized")
    for step in range(2 * EVERY, STEPS + 1, EVERY):
        shutil.rmtree(trainings.storage / "resized" / f"{PREFIX}{step:08d}")
    trainings.finish("resized", "cluster.workers=2", "train.micro_batch=1")
    resized, alone = trainings.losses("resized"), trainings.losses("alone")
    assert resized == pytest.approx(alone, rel=1e-4)


def test_a_finished_run_is_not_done_again(trainings: Trainings) -> None:
    before = (trainings.storage / "alone" / LOG).stat().st_mtime_ns
    trainings.finish("alone")
    assert (trainings.storage / "alone" / LOG).stat().st_mtime_ns == before


def test_a_run_name_is_refused_to_other_settings(trainings: Trainings) -> None:
    command = [*trainings.command("alone"), "train.seed=7"]
    refused = subprocess.run(
        command,
        cwd=trainings.root,
        env=trainings.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "run alone was started with train.seed=42, now 7" in refused.stderr
