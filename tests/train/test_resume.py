"""Killed anywhere, the same command goes on, and each step's loss is that of a run that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from data.digits.preparation import prepare
from train.runs import PREFIX, Run
from train.steplog import LOG, read_steps

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

STEPS, EVERY, PATIENCE_SECONDS = 6, 2, 240


class Trainings:
    """Runs of a tiny model from random weights on a small embedded data set."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.storage, self.data = root, folder / "runs", folder / "digits"
        prepare(self.data, scale=0.02)

    def command(self, run: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "train/run.py", "stage=si", "model=tiny", "data=digits", f"train.run={run}"),
            *("stage.starts_from=null", "model.weights.language=null", "model.weights.vision=null"),
            *(
                f"data.root={self.data}",
                f"model.tokenizer={self.data}/tokenizer",
                f"train.storage={self.storage}",
            ),
            *("stage.global_batch=4", "train.micro_batch=2", "train.keep_checkpoints=9"),
            *(f"train.max_steps={STEPS}", f"train.checkpoint_every={EVERY}", "cluster.threads_per_worker=1"),
            *more,
        ]

    def finish(self, run: str, *more: str) -> None:
        """Run the command to its end."""
        done = subprocess.run(
            self.command(run, *more),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def begun(self, run: str) -> Iterator[psutil.Process]:
        """The command while it runs; whatever is left of it is killed at the end."""
        process = subprocess.Popen(
            self.command(run),
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            kill_all(psutil.Process(process.pid))
            process.wait()

    def losses(self, run: str) -> dict[int, float]:
        """Loss by step; a step that stands twice in the log would be told here."""
        rows = read_steps(self.storage / run / LOG)
        assert len({row["step"] for row in rows}) == len(rows)
        return {row["step"]: row["loss"] for row in rows}

    def committed(self, run: str) -> int:
        return Run(str(self.storage), run).committed_step()


def kill_all(process: psutil.Process) -> None:
    """SIGKILL to a process and everything below it: driver, Ray and workers at once."""
    for each in [*process.children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def train_workers(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("RayTrainWorker" in part for part in child.cmdline()):
                found.append(child)
    return found


@pytest.fixture(scope="module")
def trainings(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """With one run that was left alone: ``alone``."""
    trainings = Trainings(root, tmp_path_factory.mktemp("resume"))
    trainings.finish("alone")
    return trainings


def test_a_killed_worker_and_a_killed_ray_change_no_loss(trainings: Trainings) -> None:
    with trainings.begun("killed") as process:
        wait_for(lambda: trainings.committed("killed") >= EVERY, "the first checkpoint")
        (worker,) = train_workers(process)
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: trainings.committed("killed") >= 2 * EVERY, "the checkpoint after the restart")
    trainings.finish("killed")
    assert trainings.losses("killed") == trainings.losses("alone")


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
    refused = subprocess.run(command, cwd=trainings.root, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "run alone was started with train.seed=42, now 7" in refused.stderr
