"""A launcher without Ray: models of random weights instead of trainings, measurements in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.errors import UserError
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from train.checkpoints.run_folder import WEIGHTS, Run
from train.experiments.kind import Measurement, Subject
from train.experiments.kinds import measure
from train.experiments.trainings import Training


class LocalLauncher:
    """Remembers what it ran."""

    parallel = 2

    def __init__(self, failing: Sequence[str] = (), killed_at: str = "") -> None:
        """Trainings whose name contains one of ``failing`` fail; measuring ``killed_at`` ends everything."""
        self.failing, self.killed_at = failing, killed_at
        self.trained: list[str] = []
        self.measured: list[str] = []

    def train(self, training: Training) -> None:
        """Commit a run with initial weights."""
        if any(part in training.name for part in self.failing):
            raise UserError(f"{training.name} cannot be trained")
        self.trained.append(training.name)
        config = load(training.overrides)
        run, model = Run.of(config), LLaDAV(config.model)
        run.bind(config)
        initialize(model, config.train.seed)
        weights = Path(str(run.checkpoint_path(1))) / WEIGHTS
        export(model, config.model, weights, tokenizer=config.model.tokenizer)
        run.commit(1, 1, 1)

    def measure(self, kind: str, subject: Subject) -> Measurement:
        """Measure in this process."""
        if subject.trial.name == self.killed_at:
            raise KeyboardInterrupt
        self.measured.append(subject.trial.name)
        return measure(kind, subject)

    def stop(self) -> None:
        """Nothing runs beside this process."""
