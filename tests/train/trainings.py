"""Runs of the training command that tests watch from outside and kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from data.manifest.manifest import open_manifest
from data.pipeline.microbatches import to_batch
from data.pipeline.plan import Plan
from data.pipeline.streams import SampleStream
from lladav.config.loader import load
from lladav.config.schema import Config
from tests.digits import shared_digits
from tests.ray_nodes import killed_at_the_end
from tests.train.ranks import on_ranks
from tests.waiting import wait_for
from train.checkpoints.run_folder import Run
from train.trainer.step_log import LOG, read_steps

TIMEOUT_SECONDS = 240


def reference_losses(overrides: Sequence[str], steps: int, start_from: str | None = None) -> dict[int, float]:
    """The loss of each of the first ``steps`` steps, computed in one process without Ray.

    Every run with these settings has to give these losses, whatever interrupts it. A reference takes two
    seconds; a run under Ray takes about twenty.
    """
    return dict(enumerate(losses_without_ray(load(overrides), steps, start_from), start=1))


def losses_without_ray(config: Config, steps: int, start_from: str | None = None) -> list[float]:
    """Train the first ``steps`` steps in one process; return their losses."""
    (losses,) = on_ranks(1, _train_without_ray, config, steps, start_from)
    return losses


def _train_without_ray(config: Config, steps: int, start_from: str | None) -> list[float]:
    from train.trainer.job import Job
    from train.trainer.loop import Worker

    manifest = open_manifest(config)
    job = Job(config, str(manifest.folder), Plan.of(manifest, config).steps, start_from)
    worker = Worker(job, deadline=lambda: None)
    stream, tile = SampleStream.of(config, manifest, 0, 1, 0), config.model.vision.image_size
    batches = (to_batch(stream.build(number), tile) for number in stream.rows)
    return [worker.step(step, batches).loss for step in range(steps)]


class Trainings:
    """Runs of a tiny model from random weights on a small part of the built-in data set."""

    def __init__(
        self, root: Path, folder: Path, *settings: str, environment: dict[str, str] | None = None
    ) -> None:
        """``settings`` and ``environment`` apply to all runs; without ``environment`` each starts a Ray."""
        self.root, self.storage, self.data, self.settings = root, folder / "runs", shared_digits(), settings
        self.environment = environment

    def overrides(self, run: str, *more: str) -> list[str]:
        """The settings of a run as arguments of the command."""
        return [
            *("stage=si", "model=tiny", "data=digits", f"train.run={run}"),
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
        finish(self.root, self.overrides(run, *more), self.environment)

    @contextmanager
    def begun(self, run: str, *more: str) -> Iterator[psutil.Popen]:
        """Run the command in the background; kill what is left of it at the end."""
        with begun(self.root, self.overrides(run, *more), self.environment, self.output(run)) as process:
            yield process

    def output(self, run: str) -> Path:
        """File with the output of the command that ``begun`` started."""
        return self.storage.parent / f"{run}.txt"

    def wait_for(self, condition: Callable[[], bool], what: str, run: str, process: psutil.Popen) -> None:
        """Wait until the condition holds; fail at once if the run ends first."""

        def state() -> str:
            return f"{what}: {self.output(run).read_text()[-2000:]}"

        wait_for(lambda: condition() or process.poll() is not None, state, pause=0.2)
        assert condition(), f"{run} ended before {state()}"

    def losses(self, run: str) -> dict[int, float]:
        """Loss by step; fails if the log has a step twice."""
        rows = read_steps(self.storage / run / LOG)
        assert len({row["step"] for row in rows}) == len(rows)
        return {row["step"]: row["loss"] for row in rows}

    def committed(self, run: str) -> int:
        return self.run(run).committed_step()

    def run(self, run: str) -> Run:
        return Run(str(self.storage), run)


def finish(root: Path, overrides: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Run the training command to its end; return what it prints."""
    done = subprocess.run(
        command(overrides),
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def begun(
    root: Path, overrides: Sequence[str], environment: dict[str, str] | None, output: Path
) -> Iterator[psutil.Popen]:
    """Run the training command in the background; kill what is left of it, Ray included, at the end."""
    with output.open("wb") as stream:
        process = psutil.Popen(
            command(overrides),
            cwd=root,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    with killed_at_the_end(process):
        yield process


def command(overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "train/run.py", *overrides]


def train_workers(process: psutil.Process) -> list[psutil.Process]:
    """The Ray Train workers below a process."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("RayTrainWorker" in part for part in child.cmdline()):
                found.append(child)
    return found
