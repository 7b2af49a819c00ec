"""Loading, initializing and exporting a model that ZeRO-3 has sharded over two ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from lladav.checkpoint import export, load
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_config, tiny_model

RANKS = 2
Gather = Callable[[list[nn.Parameter]], Any]


def sharded_model() -> LLaDAV:
    import deepspeed

    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    with deepspeed.zero.Init(config_dict_or_path=settings):
        return LLaDAV(tiny_config())


def watched(model: LLaDAV, held: list[int]) -> Gather:
    """DeepSpeed's gather; records how many full values this rank has each time."""
    import deepspeed

    @contextmanager
    def gather(parameters: list[nn.Parameter]) -> Iterator[None]:
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
            held.append(sum(parameter.numel() for parameter in model.parameters()))
            yield

    return gather


def shard_of(parameter: Any) -> torch.Tensor:
    return parameter.ds_tensor


def work(rank: int, folder: str) -> None:
    """One rank: load, export; initialize the rest, export."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled, for a minute
    deepspeed.init_distributed("gloo")
    model, held, first = sharded_model(), [], rank == 0
    gather = watched(model, held)
    shares = sum(shard_of(parameter).numel() for parameter in model.parameters())
    load(model, f"{folder}/whole", gather=gather, reads=first)
    export(model, tiny_config(), f"{folder}/loaded", gather=gather, writes=first)
    initialize(model, 5, skip=["newline"], gather=gather, writes=first)
    export(model, tiny_config(), f"{folder}/initialized", gather=gather, writes=first)
    left = sum(parameter.numel() for parameter in model.parameters())
    result = {"most": max(held), "times": len(held), "shares": shares, "left": left}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(result))
    dist.barrier()  # a rank that ends while the other one still communicates may abort
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_load_and_export_bit_exactly_without_gathering_the_whole_model(tmp_path: Path) -> None:
    model = tiny_model(seed=1)
    export(model, tiny_config(), tmp_path / "whole")
    spawn(work, (str(tmp_path),), nprocs=RANKS)

    initialize(model, 5, skip=["newline"])
    export(model, tiny_config(), tmp_path / "expected")
    for sharded, alone in (("loaded", "whole"), ("initialized", "expected")):
        written = (tmp_path / sharded / "model.safetensors").read_bytes()
        assert written == (tmp_path / alone / "model.safetensors").read_bytes()

    sizes = [parameter.numel() for parameter in model.parameters()]
    for rank in range(RANKS):
        seen = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert seen["times"] == 4 * len(sizes) - 1
        assert seen["most"] == max(sizes), "more than one parameter was whole at a time"
        assert seen["shares"] < sum(sizes) / RANKS + RANKS * len(sizes)
        assert seen["left"] == 0
