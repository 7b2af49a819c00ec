"""Execution of an experiment: trainings and measurements of its trials, as parallel as the cluster allows.

A failed trial becomes an outcome with one line; the others continue. Finished runs and saved measurements are
reused, so the same command resumes after an interruption.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lladav.errors import UserError
from lladav.storage import absolute_model
from train.checkpoints.run_folder import WEIGHTS, Run
from train.experiments.definition import Experiment, Trial
from train.experiments.kind import Kind, Measurement, Subject
from train.experiments.results import TrialFiles, TrialOutcome, measurement_key
from train.experiments.trainings import TRAIN, Training, train_seconds, trainings_of
from train.trainer.progress import format_seconds, report
from train.trainer.stage import with_absolute_paths


class Launcher(Protocol):
    """Where commands and measurements run."""

    @property
    def parallel(self) -> int:
        """Number of trials at the same time."""
        ...

    def train(self, training: Training) -> None:
        """Run a command to its end; raises ``UserError`` if it fails."""
        ...

    def measure(self, kind: str, subject: Subject) -> Measurement:
        """Measure a trial; raises ``UserError`` if it fails."""
        ...

    def stop(self) -> None:
        """End the commands that run."""
        ...


@dataclass(frozen=True)
class Execution:
    """An experiment, the folder of its files, and where it runs."""

    experiment: Experiment
    kind: Kind
    folder: Path
    launcher: Launcher

    def run(self) -> list[TrialOutcome]:
        """The outcome of every trial, in order."""
        trials = self.experiment.trials()
        pool = ThreadPoolExecutor(1 if self.kind.timed else self.launcher.parallel)
        try:
            futures = self._submit(pool, trials)
            return [self._outcome(f"[{n}/{len(trials)}]", *each) for n, each in enumerate(futures, start=1)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self.launcher.stop()

    def _submit(
        self, pool: ThreadPoolExecutor, trials: Sequence[Trial]
    ) -> list[tuple[Trial, Future[TrialOutcome] | UserError]]:
        """Start all trainings, each run once, and measurements.

        Each waits for the training before it. That one is earlier in the pool's queue, so a full pool cannot
        deadlock.
        """
        runs: dict[str, Future[None]] = {}
        submitted: list[tuple[Trial, Future[TrialOutcome] | UserError]] = []
        for trial in trials:
            try:
                trainings = trainings_of(trial)
            except UserError as error:
                submitted.append((trial, error))
                continue
            before = None
            for training in trainings:
                if training.name not in runs:
                    runs[training.name] = pool.submit(self._train, training, before)
                before = runs[training.name]
            submitted.append((trial, pool.submit(self._measure, trial, before)))
        return submitted

    def _outcome(self, number: str, trial: Trial, future: Future[TrialOutcome] | UserError) -> TrialOutcome:
        """Wait for a trial, and print one line about its end."""
        try:
            if isinstance(future, UserError):
                raise future
            outcome = future.result()
            report(f"{number} {trial.name}: measured in {format_seconds(outcome.seconds)}")
        except UserError as error:
            report(f"{number} {trial.name}: failed: {error}")
            return TrialOutcome(trial, error=str(error))
        return outcome

    def _train(self, training: Training, before: Future[None] | None) -> None:
        if before:
            before.result()
        begin = time.monotonic()
        report(f"  {training.command}")
        self.launcher.train(training)
        report(f"  {training.name}: finished in {format_seconds(time.monotonic() - begin)}")

    def _measure(self, trial: Trial, before: Future[None] | None) -> TrialOutcome:
        if before:
            before.result()
        run = None if trial.checkpoint else Run.of(trial.config())
        subject = self._subject(trial, run)
        key, files = measurement_key(self.kind, subject), TrialFiles(self.folder)
        if (saved := files.read(trial, key)) is None:
            begin = time.monotonic()
            measurement = self.launcher.measure(self.experiment.kind, subject)
            saved = round(time.monotonic() - begin, 1), measurement
            files.write(trial, key, *saved)
        seconds, measurement = saved
        commands = [Training(run.name, TRAIN, tuple(trial.overrides)).command] if run else []
        return TrialOutcome(trial, commands, train_seconds(run) if run else None, seconds, measurement)

    def _subject(self, trial: Trial, run: Run | None) -> Subject:
        config = with_absolute_paths(trial.config())
        weights = absolute_model(trial.checkpoint) if trial.checkpoint else ""
        if run and (latest := run.latest()):
            weights = str(latest.path / WEIGHTS)
        return Subject(trial, config, weights, self.experiment.split, self.kind.options_of(self.experiment))
