"""A run's folder: its settings, its committed checkpoints, its logs.

A checkpoint counts from the moment its ``state.json`` appears, which is written last. Whatever a crash leaves
behind has none, is never read and is swept away at the next start. Older checkpoints go only after a newer
one counts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lladav import config as settings
from lladav.errors import UserError
from lladav.schema import Config
from lladav.text import TEXT_VERSION
from train.storage import Place

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

    place: Place
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

    @classmethod
    def of(cls, config: Config, stage: str | None = None) -> Run:
        """The run of these settings, or the default run of another stage beside it."""
        storage = Place.of(config.train.storage)
        location = str(storage.local or config.train.storage)
        return cls(location, settings.run_name(config, stage))

    @property
    def place(self) -> Place:
        """The run's folder."""
        return Place.of(self.storage) / self.name

    def committed_step(self) -> int:
        """Steps that are done and saved."""
        latest = self.latest()
        return latest.step if latest else 0

    def checkpoints(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first."""
        places = [self.place / name for name in self.place.folders() if name.startswith(PREFIX)]
        states = [(place, place / STATE) for place in places]
        found = [
            Checkpoint(place, **json.loads(state.read_text())) for place, state in states if state.exists()
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest committed checkpoint."""
        return next(reversed(self.checkpoints()), None)

    def checkpoint_place(self, step: int) -> Place:
        """Where the checkpoint after ``step`` belongs."""
        return self.place / f"{PREFIX}{step:08d}"

    def commit(self, step: int, total_steps: int, workers: int) -> None:
        """Make the checkpoint after ``step`` count; everything else of it is in place."""
        counts = {"step": step, "total_steps": total_steps, "workers": workers}
        state = counts | {"text_version": TEXT_VERSION}
        (self.checkpoint_place(step) / STATE).write_text(json.dumps(state))

    def prune(self, keep: int) -> None:
        """Remove all but the newest ``keep`` committed checkpoints."""
        for checkpoint in self.checkpoints()[:-keep]:
            (checkpoint.place / STATE).delete_file()
            checkpoint.place.delete()

    def sweep(self) -> None:
        """Remove what interrupted saves left behind."""
        counted = {checkpoint.place.path for checkpoint in self.checkpoints()}
        for name in self.place.folders():
            place = self.place / name
            if name.startswith(PREFIX) and place.path not in counted:
                place.delete()

    def bind(self, config: Config) -> None:
        """Tie the folder to the settings; raises ``UserError`` if it belongs to other ones."""
        file = self.place / CONFIG
        try:
            if file.exists():
                settings.refuse_change(self.name, self.config(), config)
            self.place.create()
            file.write_text(settings.to_yaml(config))
        except OSError as error:
            raise UserError(
                f"{self.place}: cannot be written ({_reason(error)}); set train.storage"
            ) from None

    @contextmanager
    def local_folder(self, name: str) -> Iterator[Path]:
        """A folder of the run to write to; a temporary one, uploaded at the end, if the run is not local."""
        place = self.place / name
        if place.local is not None:
            yield place.local
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            place.upload(Path(folder))

    def config(self) -> Config:
        """The settings that the run was started with."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / CONFIG
            copy.write_text((self.place / CONFIG).read_text())
            return settings.read(copy)


def refuse_other_text(run: str, latest: Checkpoint) -> None:
    """Raise ``UserError`` if another text processing made the token ids that the run has trained on."""
    if latest.text_version != TEXT_VERSION:
        raise UserError(
            f"run {run} was trained with text processing {latest.text_version}, this version has "
            f"{TEXT_VERSION}, with which records give other token ids; resume with the earlier version, "
            f"or start from its weights with train.run=<new name> train.init={latest.place / WEIGHTS}"
        )


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """The place as a local folder: itself, or a temporary copy."""
    if place.local is not None:
        yield place.local
        return
    with tempfile.TemporaryDirectory() as folder:
        place.download(Path(folder))
        yield Path(folder)


def _reason(error: OSError) -> str:
    return error.strerror or str(error).splitlines()[0]
