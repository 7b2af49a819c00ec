"""Several ranks on this machine, for tests of collectives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

FORKSERVER = "forkserver"
get_context(FORKSERVER).set_forkserver_preload(["tests.train.preloaded"])


def on_ranks(workers: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` on ``workers`` gloo ranks in own processes; return their results."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(
            _rank, (workers, folder, function, arguments), nprocs=workers, start_method=FORKSERVER
        )
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(workers)]


def _rank(
    rank: int, workers: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    try:
        torch.save(function(*arguments), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()
