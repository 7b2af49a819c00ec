"""Runs of the training command that are watched from outside, and killed."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from data.digits.preparation import prepare
from tests.ray_nodes import kill_all
from train.checkpoints.run_folder import Run
from train.trainer.step_log import LOG, read_steps

PATIENCE_SECONDS = 240


@cache
def digits() -> Path:
    """The embedded data set, shortened; written once for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="lladav-digits-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepare(folder / "digits", scale=0.02)
    return folder / "digits"


class Trainings:
    """Runs of a tiny model from random weights on a small embedded data set."""

    def __init__(
        self, root: Path, folder: Path, *settings: str, environment: dict[str, str] | None = None
    ) -> None:
        """``settings`` and ``environment`` hold for each of them; without one, each starts its own Ray."""
        self.root, self.storage, self.data, self.settings = root, folder / "runs", digits(), settings
        self.environment = environment

    def command(self, run: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "train/run.py", "stage=si", "model=tiny", "data=digits", f"train.run={run}"),
            *("stage.starts_from=null", "model.weights.language=null", "model.weights.vision=null"),
            *(
                f"data.root={self.data}",
                f"model.tokenizer={self.data}/tokenizer",
                f"train.storage={self.storage}",
            ),
            *("train.keep_checkpoints=99", "cluster.threads_per_worker=1", *self.settings, *more),
        ]

    def finish(self, run: str, *more: str) -> None:
        """Run the command to its end."""
        done = subprocess.run(
            self.command(run, *more),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def begun(
        self, run: str, *more: str, environment: dict[str, str] | None = None
    ) -> Iterator[psutil.Popen]:
        """The command while it runs; whatever is left of it is killed at the end."""
        with self.output(run).open("wb") as output:
            process = psutil.Popen(
                self.command(run, *more),
                cwd=self.root,
                env=environment or self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill_all(process)
            process.wait()

    def output(self, run: str) -> Path:
        """What the command that was begun prints."""
        return self.storage.parent / f"{run}.txt"

    def wait_for(self, condition: Callable[[], bool], what: str, run: str, process: psutil.Popen) -> None:
        """Wait until the condition holds; fail at once where the run has ended before."""
        wait_for(lambda: condition() or process.poll() is not None, what)
        assert condition(), f"{run} ended before {what}: {self.output(run).read_text()[-2000:]}"

    def losses(self, run: str) -> dict[int, float]:
        """Loss by step; a step that stands twice in the log would be told here."""
        rows = read_steps(self.storage / run / LOG)
        assert len({row["step"] for row in rows}) == len(rows)
        return {row["step"]: row["loss"] for row in rows}

    def committed(self, run: str) -> int:
        return self.run(run).committed_step()

    def run(self, run: str) -> Run:
        return Run(str(self.storage), run)


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
