"""A run's folder: its settings, its committed checkpoints, its logs.

A checkpoint counts from the moment its ``state.json`` appears, which is written after everything else is
durable. What a crash leaves behind has none, is never read and is removed at the next start. Older
checkpoints are removed only after a newer one counts.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
from train.checkpoints.run_lock import owner_of

PREFIX = "checkpoint-"
STATE = "state.json"
CONFIG = "config.yaml"
WEIGHTS = "weights"
ENGINE = "engine"
QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: after ``step`` of ``total_steps`` steps, written by ``workers`` ranks.

    ``text_version`` is that of the text processing that made its token ids; old checkpoints do not name it.
    """

    place: UPath
    step: int
    total_steps: int
    workers: int
    text_version: int = 1

    @property
    def final(self) -> bool:
        return self.step >= self.total_steps


@dataclass(frozen=True)
class Run:
    """One run of one stage."""

    storage: str
    """Folder or URI that holds the run's folder; a folder as an absolute path."""
    name: str
    token: str | None = None
    """Of this process's claim on the folder; None: it has none, and commits all the same."""

    @classmethod
    def of(cls, config: Config, stage: str | None = None) -> Run:
        """The run of these settings, or the default run of another stage beside it."""
        return cls(absolute(config.train.storage), settings.run_name(config, stage))

    @property
    def place(self) -> UPath:
        """The run's folder."""
        return location(self.storage) / self.name

    def committed_step(self) -> int:
        """Steps that are done and saved."""
        latest = self.latest()
        return latest.step if latest else 0

    def checkpoints(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first."""
        found = []
        for name in self._checkpoint_names():
            with suppress(FileNotFoundError, NotADirectoryError):  # not committed
                place = self.place / name
                found.append(Checkpoint(place, **json.loads(read_text(place / STATE))))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest committed checkpoint."""
        return next(reversed(self.checkpoints()), None)

    def _checkpoint_names(self) -> list[str]:
        return [name for name in subfolders(self.place) if name.startswith(PREFIX)]

    def checkpoint_place(self, step: int) -> UPath:
        """Where the checkpoint after ``step`` belongs."""
        return self.place / f"{PREFIX}{step:08d}"

    def commit(self, step: int, total_steps: int, workers: int) -> None:
        """Make the checkpoint after ``step`` count; everything else of it is durable.

        Raises ``UserError`` where another process has taken over the run's folder.
        """
        owner = owner_of(self.place) if self.token else None
        if self.token and (owner is None or owner.token != self.token):
            raise UserError(f"{self.place}: taken over by {owner or 'another process'}; nothing is committed")
        counts = {"step": step, "total_steps": total_steps, "workers": workers}
        state = counts | {"text_version": TEXT_VERSION}
        write_durably(self.checkpoint_place(step) / STATE, json.dumps(state))

    def prune(self, keep: int) -> None:
        """Remove all but the newest ``keep`` committed checkpoints."""
        for checkpoint in self.checkpoints()[:-keep]:
            remove_file(checkpoint.place / STATE)
            remove_folder(checkpoint.place)

    def sweep(self) -> None:
        """Remove what interrupted saves left behind."""
        counted = {checkpoint.place.name for checkpoint in self.checkpoints()}
        for name in self._checkpoint_names():
            if name not in counted:
                remove_folder(self.place / name)

    def refuse_other(self, config: Config) -> None:
        """Raise ``UserError`` if the folder belongs to settings of another meaning, or cannot be read."""
        with as_user_error(f"{self.place}: cannot be read", "set train.storage"):
            if exists(self.place / CONFIG):
                check_unchanged(self.name, self.config(), config)

    def bind(self, config: Config) -> None:
        """Tie the folder to the settings; raises ``UserError`` if it belongs to other ones."""
        self.refuse_other(config)
        with as_user_error(f"{self.place}: cannot be written", "set train.storage"):
            make_folder(self.place)
            write_durably(self.place / CONFIG, settings.to_yaml(config))

    def config(self) -> Config:
        """The settings that the run was started with."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / CONFIG
            copy.write_text(read_text(self.place / CONFIG))
            return settings.load_saved(copy)


def refuse_other_text(run: str, latest: Checkpoint) -> None:
    """Raise ``UserError`` if another text processing made the token ids that the run has trained on."""
    if latest.text_version != TEXT_VERSION:
        raise UserError(
            f"run {run} was trained with text processing {latest.text_version}, this version has "
            f"{TEXT_VERSION}, with which records give other token ids; resume with the earlier version, "
            f"or start from its weights with train.run=<new name> train.init={latest.place / WEIGHTS}"
        )
