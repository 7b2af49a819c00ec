"""Saving a run's state and starting from it again, at the same or another number of ranks. Both are
collectives.

A save writes shards beside each other, then the whole model in the released layout, and counts once every
rank is done: then rank 0 commits it and removes older ones. A failed save leaves what was committed before
untouched.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from lladav import config as settings
from lladav.schema import Config
from train.engine import Engine
from train.ranks import first_failure
from train.resize import to_universal
from train.runs import CONFIG, ENGINE, WEIGHTS, Checkpoint, Run, local_copy
from train.storage import Place


def resume(run: Run, config: Config, total_steps: int, start_from: Path | None) -> tuple[Engine, int]:
    """The engine and the first step to do: after the newest committed checkpoint, or at the beginning."""
    if dist.get_rank() == 0:
        run.sweep()
    dist.barrier()
    latest = run.latest()
    if latest is None:
        return Engine(config, total_steps, start_from), 0
    resized = latest.workers != dist.get_world_size()
    engine = Engine(config, total_steps, start_from, resized)
    with _engine_state(latest, resized) as folder:
        engine.load(folder)
    return engine, latest.step


@contextmanager
def _engine_state(checkpoint: Checkpoint, resized: bool) -> Iterator[Path]:
    """The saved shards, converted by one rank of each machine where the number of ranks has changed."""
    with local_copy(checkpoint.place / ENGINE) as folder:
        if not resized:
            yield folder
            return
        first = os.environ["LOCAL_RANK"] == "0"
        out = Path(tempfile.gettempdir()) / f"universal-{_shared_word()}"
        if first:
            to_universal(folder, out)
        dist.barrier()
        yield out
        dist.barrier()
        if first:
            shutil.rmtree(out)


def _shared_word() -> str:
    """A word that rank 0 draws for all."""
    words = [uuid.uuid4().hex]
    dist.broadcast_object_list(words)
    return words[0]


def save(engine: Engine, run: Run, config: Config, step: int, total_steps: int) -> str | None:
    """Write and commit a checkpoint; where there is no room for it, a line that says so, on every rank."""
    place = run.checkpoint_place(step)
    failure = first_failure(lambda: _check_room(place, engine.state_bytes()))
    if failure:
        return (
            f"checkpoint after step {step} cannot be saved: {failure}; the ones before it are kept; "
            "make room or set train.storage, then run the same command again"
        )
    _write(engine, place, config)
    dist.barrier()
    if dist.get_rank() == 0:
        run.commit(step, total_steps, dist.get_world_size())
        run.prune(config.train.keep_checkpoints)
    dist.barrier()
    return None


def _check_room(place: Place, bytes_needed: int) -> None:
    """Raise ``OSError`` where there is no room: a save that fails half way would strand the ranks."""
    folder = place.local or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise OSError(
            errno.ENOSPC, f"{free >> 20} MiB are free of {bytes_needed >> 20} MiB needed", str(folder)
        )


def _write(engine: Engine, place: Place, config: Config) -> None:
    with _staging(place) as folder:
        engine.save(folder / ENGINE)
        engine.export(folder / WEIGHTS)
        if dist.get_rank() == 0:
            (folder / CONFIG).write_text(settings.to_yaml(config))


@contextmanager
def _staging(place: Place) -> Iterator[Path]:
    """The place itself if it is local; else a temporary folder that is uploaded at the end."""
    if place.local is not None:
        place.local.mkdir(parents=True, exist_ok=True)
        yield place.local
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        place.upload(Path(folder))
