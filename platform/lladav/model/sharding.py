"""Parameters whose values may be spread over ranks.

Whoever reads or writes values asks for them a few at a time through a ``Gather``, and every rank asks for the
same ones in the same order: gathering is collective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from torch import nn

Gather: TypeAlias = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]
"""Gives a context in which parameters hold their whole values, like DeepSpeed's ``GatheredParameters``."""

NamedParameters: TypeAlias = nn.Module | Iterable[tuple[str, nn.Parameter]]
"""A model, or some of its parameters with their names."""


def no_gather(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:  # noqa: ARG001 - a ``Gather``
    """The ``Gather`` of a model that is not sharded."""
    return nullcontext()


def parameters_by_name(model: NamedParameters) -> dict[str, nn.Parameter]:
    """Parameters by name, in the model's order."""
    return dict(model.named_parameters() if isinstance(model, nn.Module) else model)


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of the whole parameter; a ZeRO-3 shard keeps it in ``ds_shape``."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
