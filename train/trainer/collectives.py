"""Collectives beyond those of torch: every rank calls them, in the same order, or all ranks hang."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def all_gather_values(value: Value) -> list[Value]:
    """Collective: return the values of all ranks, in the order of the ranks."""
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Collective: the sum of each value over all ranks, in float64; without a process group, the values."""
    total = torch.tensor(values, dtype=torch.float64)
    if dist.is_initialized():
        total = total.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(total)
    return total.tolist()


def any_rank_os_error(action: Callable[[], None]) -> str | None:
    """Collective: run ``action`` on every rank; return the ``OSError`` of the lowest rank that raises one.

    All ranks get the same text, so that they can end together. Other exceptions are raised.
    """
    message = None
    try:
        action()
    except OSError as error:
        message = f"{error.filename or ''} {error.strerror or error}".strip()
    return next((found for found in all_gather_values(message) if found), None)
