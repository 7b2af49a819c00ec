"""Decisions that all ranks take together; every call is a collective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def gathered_objects(value: Value) -> list[Value]:
    """The value of each rank, on all of them."""
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def first_failure(action: Callable[[], None]) -> str | None:
    """Do it on every rank; where it raises ``OSError`` on any, what the first of them says, on all."""
    mine = None
    try:
        action()
    except OSError as error:
        mine = f"{error.filename or ''} {error.strerror or error}".strip()
    return next((line for line in gathered_objects(mine) if line), None)
