"""Several ranks on this machine, for tests of what is collective."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def on_ranks(workers: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each of ``workers`` gloo ranks, each a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (workers, folder, function, arguments), nprocs=workers)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(workers)]


def _rank(
    rank: int, workers: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers), DS_ACCELERATOR="cpu")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    try:
        torch.save(function(*arguments), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()
