"""A run's folder: its settings, its committed checkpoints, its logs.

A checkpoint is committed when its ``state.json`` exists, which is written after everything else is durable.
The files of an interrupted save are never read and are removed at the next start. Older checkpoints are
removed only after a newer one is committed, and the one with the lowest validation loss is not removed.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from lladav.config import loader as settings
from lladav.config.comparison import check_unchanged
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import TEXT_VERSION
from lladav.storage import (
    absolute,
    as_user_error,
    exists,
    location,
    make_folder,
    read_text,
    remove_file,
    remove_folder,
    subfolders,
    write_durably,
)
from train.checkpoints.best import BestValidation
from train.checkpoints.run_lock import owner_of

PREFIX = "checkpoint-"
STATE = "state.json"
CONFIG = "config.yaml"
WEIGHTS = "weights"
ENGINE = "engine"
QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint after ``step`` of ``total_steps`` steps, written by ``workers`` ranks.

    ``text_version`` is the version of the text processing that the run has trained with. Checkpoints written
    before there was one do not have it.
    """

    path: UPath
    step: int
    total_steps: int
    workers: int
    text_version: int = 1
    best: BestValidation | None = None
    """The best validation up to this step; None before the first."""

    @classmethod
    def read(cls, path: UPath) -> Checkpoint:
        """The checkpoint in a folder; raises ``FileNotFoundError`` if it is not committed."""
        state: dict[str, Any] = json.loads(read_text(path / STATE))
        best = state.pop("best", None)
        return cls(path, **state, best=best and BestValidation(**best))

    @property
    def final(self) -> bool:
        return self.step >= self.total_steps


@dataclass(frozen=True)
class Run:
    """One run of one stage."""

    storage: str
    """Absolute path or URI of the folder that holds the run's folder."""
    name: str
    token: str | None = None
    """Token of this process's claim on the folder; None: commits are not checked against a claim."""

    @classmethod
    def of(cls, config: Config, stage: str | None = None) -> Run:
        """The run of these settings, or the run of another stage with the same model, data and storage."""
        return cls(absolute(config.train.storage), settings.run_name(config, stage))

    @property
    def path(self) -> UPath:
        """The run's folder."""
        return location(self.storage) / self.name

    def committed_step(self) -> int:
        """Number of steps that the newest checkpoint contains."""
        latest = self.latest()
        return latest.step if latest else 0

    def checkpoints(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first."""
        found = []
        for name in self._checkpoint_names():
            with suppress(FileNotFoundError, NotADirectoryError):  # not committed
                found.append(Checkpoint.read(self.path / name))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest committed checkpoint."""
        return next(reversed(self.checkpoints()), None)

    def best(self) -> Checkpoint | None:
        """The committed checkpoint with the lowest validation loss; None without validations."""
        checkpoints = self.checkpoints()
        best = checkpoints[-1].best if checkpoints else None
        return next((each for each in checkpoints if best and each.step == best.step), None)

    @property
    def finished(self) -> bool:
        """Whether the run has its last checkpoint."""
        latest = self.latest()
        return latest is not None and latest.final

    def _checkpoint_names(self) -> list[str]:
        return [name for name in subfolders(self.path) if name.startswith(PREFIX)]

    def checkpoint_path(self, step: int) -> UPath:
        """Folder of the checkpoint after ``step``."""
        return self.path / f"{PREFIX}{step:08d}"

    def commit(self, step: int, total_steps: int, workers: int, best: BestValidation | None = None) -> None:
        """Commit the checkpoint after ``step``, whose files are already durable.

        ``total_steps`` is ``step`` if the run ends early. Raises ``UserError`` if another process has taken
        over the run's folder.
        """
        owner = owner_of(self.path) if self.token else None
        if self.token and (owner is None or owner.token != self.token):
            raise UserError(f"{self.path}: taken over by {owner or 'another process'}; nothing is committed")
        counts = {"step": step, "total_steps": total_steps, "workers": workers}
        state = counts | {"text_version": TEXT_VERSION} | ({"best": asdict(best)} if best else {})
        write_durably(self.checkpoint_path(step) / STATE, json.dumps(state))

    def prune(self, keep: int) -> None:
        """Remove all committed checkpoints but the newest ``keep`` and the best one."""
        best = self.best()
        for checkpoint in self.checkpoints()[:-keep]:
            if best and checkpoint.step == best.step:
                continue
            remove_file(checkpoint.path / STATE)
            remove_folder(checkpoint.path)

    def remove_uncommitted(self) -> None:
        """Remove the files of interrupted saves."""
        committed = {checkpoint.path.name for checkpoint in self.checkpoints()}
        for name in self._checkpoint_names():
            if name not in committed:
                remove_folder(self.path / name)

    def check_settings(self, config: Config) -> None:
        """Raise ``UserError`` if the run was started with settings of another meaning, or cannot be read."""
        with as_user_error(f"{self.path}: cannot be read", "set train.storage"):
            if exists(self.path / CONFIG):
                check_unchanged(self.name, self.config(), config)

    def bind(self, config: Config) -> None:
        """Write the settings into the folder; raises ``UserError`` if it belongs to other settings."""
        self.check_settings(config)
        with as_user_error(f"{self.path}: cannot be written", "set train.storage"):
            make_folder(self.path)
            write_durably(self.path / CONFIG, settings.to_yaml(config))

    def config(self) -> Config:
        """The settings that the run was started with."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / CONFIG
            copy.write_text(read_text(self.path / CONFIG))
            return settings.load_saved(copy)


def check_text_version(run: str, latest: Checkpoint) -> None:
    """Raise ``UserError`` if the run has trained with another version of the text processing."""
    if latest.text_version != TEXT_VERSION:
        raise UserError(
            f"run {run} was trained with text processing {latest.text_version}, this version has "
            f"{TEXT_VERSION}, which gives other token ids; resume with the earlier version of lladav, "
            f"or start from its weights with train.run=<new name> train.init={latest.path / WEIGHTS}"
        )
