"""The optimizer's state on disk, readable by any number of ranks.

ZeRO-3 gives rank r of W the elements r*c to (r+1)*c of each flattened parameter, c = ceil(elements / W): its
shard. A rank's file holds its shards of the float32 master weights and of AdamW's two moments, by parameter
name and without padding. A rank of another world size reads its own shards as ranges of these files. So
resizing converts nothing and needs no collective, and a rank holds at most one parameter beside its state.

Files are in the safetensors format: reading them, unlike unpickling, runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from lladav.checkpoint.safetensors_reading import StoredTensor, read_header
from lladav.checkpoint.safetensors_writing import TensorSpec, TensorWriter
from lladav.errors import UserError
from lladav.model.sharding import full_shape
from lladav.storage import AnyPath, exists

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
KINDS = (MASTER, *MOMENTS)


def shard_name(rank: int, workers: int) -> str:
    """File name of a rank's shards."""
    return f"rank-{rank:05d}-of-{workers:05d}.safetensors"


def shard_range(elements: int, rank: int, workers: int) -> tuple[int, int]:
    """Start and end (exclusive) of a rank's shard of a flattened parameter."""
    chunk = math.ceil(elements / workers)
    return min(rank * chunk, elements), min((rank + 1) * chunk, elements)


def write(trained: Mapping[str, nn.Parameter], file: Path, rank: int, workers: int) -> None:
    """Write this rank's file, one tensor at a time; raises ``OSError``.

    ``trained`` has the parameters of DeepSpeed's ZeRO-3 optimizer by name. The optimizer has made a step.
    """
    lengths = {name: _own_elements(parameter, rank, workers) for name, parameter in trained.items()}
    specs = [TensorSpec(f"{n}.{kind}", torch.float32, (lengths[n],)) for n in trained for kind in KINDS]
    try:
        with TensorWriter(file, specs) as writer:
            for name, parameter in trained.items():
                for kind in KINDS:
                    writer.add(_padded(parameter, kind)[: lengths[name]])
    except OSError as error:  # the error of a write has no file name
        raise OSError(error.errno, error.strerror, str(file)) from error


def read(
    optimizer: Any, trained: Mapping[str, nn.Parameter], saved: SavedState, step: int, rank: int, workers: int
) -> None:
    """Load this rank's shards of the state that was saved after ``step`` steps.

    ``optimizer`` is DeepSpeed's ZeRO-3 optimizer before its first step.
    """
    for master in optimizer.fp32_partitioned_groups_flat:  # AdamW makes its state only in its first step
        moments = {kind: torch.zeros_like(master) for kind in MOMENTS}
        optimizer.state[master] = {"step": torch.tensor(float(step)), **moments}
    for name, parameter in trained.items():
        elements = math.prod(full_shape(parameter))
        first, last = shard_range(elements, rank, workers)
        for kind in KINDS:
            values = torch.zeros_like(_padded(parameter, kind))
            for offset, part in saved.parts(f"{name}.{kind}", elements, first, last):
                values[offset : offset + len(part)].copy_(part)
            if kind == MASTER:
                safe_set_local_fp32_param(parameter, values)
            else:
                safe_set_local_optimizer_state(parameter, values, kind)


def _own_elements(parameter: nn.Parameter, rank: int, workers: int) -> int:
    first, last = shard_range(math.prod(full_shape(parameter)), rank, workers)
    return last - first


def _padded(parameter: nn.Parameter, kind: str) -> Tensor:
    """This rank's shard, padded to the length that the shards of all ranks have."""
    if kind == MASTER:
        return safe_get_local_fp32_param(parameter)
    return safe_get_local_optimizer_state(parameter, kind)


class SavedState:
    """The shard files that ``workers`` ranks have saved."""

    def __init__(self, folder: AnyPath, workers: int) -> None:
        self._folder, self._workers = folder, workers
        self._headers: dict[int, dict[str, StoredTensor]] = {}

    def parts(self, name: str, elements: int, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """Elements ``first`` to ``last`` (exclusive) in parts, each with its offset from ``first``."""
        for rank in range(self._workers):
            begin, end = shard_range(elements, rank, self._workers)
            low, high = max(first, begin), min(last, end)
            if low < high:
                yield low - first, self._tensor(rank, name, end - begin).read(low - begin, high - begin)

    def _tensor(self, rank: int, name: str, elements: int) -> StoredTensor:
        if rank not in self._headers:
            self._headers[rank] = read_header(self._file(rank))
        tensor = self._headers[rank].get(name)
        if tensor is None or tensor.shape != (elements,):
            raise UserError(f"{self._file(rank)}: lacks {elements} elements of {name}; {_OLDER}")
        return tensor

    def _file(self, rank: int) -> AnyPath:
        file = self._folder / shard_name(rank, self._workers)
        if not exists(file):
            raise UserError(f"{file}: no such file; {_OLDER}")
        return file


_OLDER = (
    "remove this checkpoint to resume from an older one, or start a new run from its weights with train.init"
)
