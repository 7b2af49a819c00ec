"""Saving a run's state and resuming from it, at the same or another number of ranks. Both are collectives.

A save writes each rank's shard of the optimizer's state, then the whole model in the released layout, and
counts once every rank is done: then rank 0 commits it and removes older ones. A failed save leaves committed
checkpoints untouched.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from upath import UPath

from lladav.config import loader as settings
from lladav.config.schema import Config
from lladav.storage import fsync_files, fsync_folder, local_path, make_folder, upload
from train.checkpoints.run_folder import CONFIG, ENGINE, WEIGHTS, Run
from train.trainer.collectives import first_failure
from train.trainer.zero_engine import ZeroEngine


def resume(run: Run, config: Config, total_steps: int, start_from: str | None) -> tuple[ZeroEngine, int]:
    """The engine and the first step to do: after the newest committed checkpoint, or at the beginning.

    ``start_from`` is the location of the weights that a new run begins with; a resumed one reads its own.
    """
    if dist.get_rank() == 0:
        run.sweep()
    dist.barrier()
    latest = run.latest()
    if latest is None:
        return ZeroEngine(config, total_steps, start_from), 0
    engine = ZeroEngine(config, total_steps, str(latest.place / WEIGHTS))
    engine.load(latest.place / ENGINE, latest.workers, latest.step)
    return engine, latest.step


def no_room(engine: ZeroEngine, run: Run, step: int) -> str | None:
    """The line that says so, on every rank, where there is no room for the checkpoint after ``step``."""
    local = local_path(run.checkpoint_place(step))
    folder = local.parent if local else _scratch(engine.config)
    needed = engine.checkpoint_bytes() if local else engine.staged_bytes()
    failure = first_failure(lambda: _check_room(folder, needed))
    if failure is None:
        return None
    return (
        f"checkpoint after step {step} cannot be saved: {failure}; the ones before it are kept; "
        f"free some space or set train.{'storage' if local else 'scratch'}, then run the same command again"
    )


def save(engine: ZeroEngine, run: Run, config: Config, step: int, total_steps: int) -> str | None:
    """Write and commit a checkpoint; where there is no room for it, a line that says so, on every rank."""
    if failure := no_room(engine, run, step):
        return failure
    _write(engine, run.checkpoint_place(step), config)
    dist.barrier()
    if dist.get_rank() == 0:
        run.commit(step, total_steps, dist.get_world_size())
        run.prune(config.train.keep_checkpoints)
    dist.barrier()
    return None


def _scratch(config: Config) -> Path:
    """Where files on their way to an object store are kept."""
    return Path(config.train.scratch or tempfile.gettempdir())


def _check_room(folder: Path, bytes_needed: int) -> None:
    """Raise ``OSError`` where there is no room, before anything is written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise OSError(
            errno.ENOSPC, f"{free >> 20} MiB are free of {bytes_needed >> 20} MiB needed", str(folder)
        )


def _write(engine: ZeroEngine, place: UPath, config: Config) -> None:
    with _staging(place, _scratch(config)) as folder:
        engine.save(folder / ENGINE)
        engine.export(folder / WEIGHTS)
        if dist.get_rank() == 0:
            (folder / CONFIG).write_text(settings.to_yaml(config))


@contextmanager
def _staging(place: UPath, scratch: Path) -> Iterator[Path]:
    """A local folder to write to, whose files are durable in the checkpoint's folder when this ends.

    It is the checkpoint's folder itself, or a temporary one in ``scratch`` that is uploaded. Writers of
    tensors sync their files; rank 0 wrote the others.
    """
    if local := local_path(place):
        make_folder(place)
        yield local
        fsync_folder(local / ENGINE)
        if dist.get_rank() == 0:
            fsync_files(local, lambda name: not name.endswith(".safetensors"))
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)
        upload(Path(folder), place)
