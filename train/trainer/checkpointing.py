"""Saving a run's state and resuming from it, with the same number of ranks or another.

All functions without an underscore are collectives. A save writes each rank's shard of the optimizer's state
and then the whole model in the LLaDA-V layout. After the last rank is done, rank 0 commits the checkpoint and
removes older ones. A save that fails leaves committed checkpoints untouched.
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
from train.checkpoints.best import BestValidation
from train.checkpoints.run_folder import CONFIG, ENGINE, WEIGHTS, Run
from train.trainer.collectives import any_rank_os_error
from train.trainer.zero_engine import ZeroEngine


def resume(run: Run, config: Config, total_steps: int, start_from: str | None) -> tuple[ZeroEngine, int]:
    """Collective: build the engine; return it with the number of steps that are done.

    A run with a committed checkpoint resumes from it; a new run starts from the weights at ``start_from``.
    """
    if dist.get_rank() == 0:
        run.remove_uncommitted()
    dist.barrier()  # no rank may look for the latest checkpoint while rank 0 still removes folders
    latest = run.latest()
    if latest is None:
        return ZeroEngine(config, total_steps, start_from), 0
    engine = ZeroEngine(config, total_steps, str(latest.path / WEIGHTS))
    engine.load(latest.path / ENGINE, latest.workers, latest.step)
    return engine, latest.step


def checkpoint_space_error(engine: ZeroEngine, run: Run, step: int) -> str | None:
    """Collective: return an error line if any rank lacks space for the checkpoint after ``step``."""
    local = local_path(run.checkpoint_path(step))
    folder = local.parent if local else _scratch(engine.config)
    needed = engine.checkpoint_bytes() if local else engine.staged_bytes()
    failure = any_rank_os_error(lambda: _check_space(folder, needed))
    if failure is None:
        return None
    return (
        f"checkpoint after step {step} cannot be saved: {failure}; earlier checkpoints are kept; "
        f"free some space or set train.{'storage' if local else 'scratch'}, then run the same command again"
    )


def save(
    engine: ZeroEngine,
    run: Run,
    config: Config,
    step: int,
    total_steps: int,
    best: BestValidation | None = None,
) -> str | None:
    """Collective: write and commit a checkpoint; return an error line if there is no space for it."""
    if failure := checkpoint_space_error(engine, run, step):
        return failure
    with _staging(run.checkpoint_path(step), _scratch(config)) as folder:
        engine.save(folder / ENGINE)
        engine.export(folder / WEIGHTS)
        if dist.get_rank() == 0:
            (folder / CONFIG).write_text(settings.to_yaml(config))
    dist.barrier()  # commit only after the files of all ranks are durable
    if dist.get_rank() == 0:
        run.commit(step, total_steps, dist.get_world_size(), best)
        run.prune(config.train.keep_checkpoints)
    dist.barrier()  # no rank continues or ends the run before the commit
    return None


def _scratch(config: Config) -> Path:
    """Local folder for files that are uploaded to an object store afterwards."""
    return Path(config.train.scratch or tempfile.gettempdir())


def _check_space(folder: Path, bytes_needed: int) -> None:
    """Raise ``OSError`` if the folder has too little free space or cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise OSError(
            errno.ENOSPC, f"{free >> 20} MiB are free of {bytes_needed >> 20} MiB needed", str(folder)
        )


@contextmanager
def _staging(path: UPath, scratch: Path) -> Iterator[Path]:
    """A local folder to write a checkpoint to. When the block ends, its files are durable at ``path``.

    The folder is ``path`` itself if that is local, else a temporary folder in ``scratch`` that is uploaded.
    """
    if local := local_path(path):
        make_folder(path)
        yield local
        fsync_folder(local / ENGINE)
        if dist.get_rank() == 0:  # it wrote all other files; the safetensors writers sync their own
            fsync_files(local, lambda name: not name.endswith(".safetensors"))
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)
        upload(Path(folder), path)
