"""Collectives of objects and errors give all ranks the same result."""

from __future__ import annotations

import errno

import torch.distributed as dist

from tests.train.ranks import on_ranks
from train.trainer.collectives import all_gather_values, any_rank_os_error


def fail_on_rank_1() -> tuple[list[int], str | None, str | None]:
    """The ranks' numbers, and the error lines if rank 1 has no space and if no rank fails."""

    def write() -> None:
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "/runs")

    return all_gather_values(dist.get_rank()), any_rank_os_error(write), any_rank_os_error(lambda: None)


def test_all_ranks_learn_of_an_error_on_one() -> None:
    assert on_ranks(2, fail_on_rank_1) == [([0, 1], "/runs No space left on device", None)] * 2
