"""Access to the full values of parameters that ZeRO-3 may shard over ranks.

Code that reads or writes values gathers a few parameters at a time with a ``Gather``. Gathering is a
collective: every rank must gather the same parameters in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from torch import nn

Gather: TypeAlias = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]
"""Returns a context in which parameters have their full values, like DeepSpeed's ``GatheredParameters``."""

NamedParameters: TypeAlias = nn.Module | Iterable[tuple[str, nn.Parameter]]
"""A model, or some of its parameters with their names."""


def no_gather(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:  # noqa: ARG001 - a ``Gather``
    """The ``Gather`` for a model that is not sharded."""
    return nullcontext()


def parameters_by_name(model: NamedParameters) -> dict[str, nn.Parameter]:
    """Return the parameters by name, in the model's order."""
    return dict(model.named_parameters() if isinstance(model, nn.Module) else model)


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of the full parameter, which ZeRO-3 keeps in ``ds_shape``."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
