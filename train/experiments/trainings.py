"""The training runs of a trial: the run itself, and the unfinished runs that it starts from.

Each is an ordinary command, and each run has its usual folder. A finished run is used as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.storage import is_hub_id, is_uri, local_path
from train.checkpoints.run_folder import Run
from train.experiments.definition import Settings, Trial, as_arguments, is_of_every_run
from train.trainer.step_log import LOG, read_steps

TRAIN, TOWERS = "run.py", "towers.py"
"""Commands in ``train/``."""


@dataclass(frozen=True)
class Training:
    """A command that a trial needs, with its result's ``name``; trainings of the same name are the same."""

    name: str
    script: str
    overrides: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return " ".join(["python", f"train/{self.script}", *self.overrides])


def trainings_of(trial: Trial) -> list[Training]:
    """What has to run before the trial can be measured, in order; empty if that exists.

    Raises ``UserError`` if the trial's run was started with other settings.
    """
    if trial.checkpoint:
        return []
    config = trial.config()
    run = Run.of(config)
    run.check_settings(config)
    if run.finished:
        return []
    own = Training(run.name, TRAIN, tuple(trial.overrides))
    return [*_predecessors(config, trial.settings), own]


def train_seconds(run: Run) -> float | None:
    """Seconds of the run's optimizer steps by its log; None for a remote run."""
    folder = local_path(run.path)
    return round(sum(row["seconds"] for row in read_steps(folder / LOG)), 1) if folder else None


def _predecessors(config: Config, settings: Settings) -> list[Training]:
    """The unfinished runs before a run, first one first, and the towers that they start from."""
    shared = {key: value for key, value in settings.items() if is_of_every_run(key) and key != "stage"}
    found: list[Training] = []
    while config.train.init is None and config.stage.previous:
        overrides = (*as_arguments(shared), f"stage={config.stage.previous}")
        config = load(overrides)
        if Run.of(config).finished:
            return found
        found.insert(0, Training(Run.of(config).name, TRAIN, overrides))
    return [*_towers(config, shared), *found]


def _towers(config: Config, shared: Settings) -> Iterator[Training]:
    """The command that pretrains the towers, if a run starts from towers that do not exist."""
    weights = config.model.weights
    if config.train.init or config.stage.starts_from or weights.llada_v:
        return
    towers = [tower for tower in (weights.language, weights.vision) if tower and not is_uri(tower)]
    if any(not is_hub_id(tower) and not Path(tower).is_dir() for tower in towers):
        yield Training(f"towers-{config.model.name}-{config.data.name}", TOWERS, tuple(as_arguments(shared)))


def argv(training: Training, train_folder: Path) -> list[str]:
    """The command for a subprocess."""
    return [sys.executable, str(train_folder / training.script), *training.overrides]
