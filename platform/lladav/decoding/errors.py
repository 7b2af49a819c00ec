"""Errors that end a request without an answer."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from lladav.errors import UserError

if TYPE_CHECKING:
    import torch


class FailureKind(StrEnum):
    """Kind of a failure; a label of ``lladav_failures_total``."""

    prompt = "prompt"
    """The prompt could not be encoded."""
    forward = "forward"
    """A forward raised an error."""
    not_finite = "not_finite"
    """A forward computed NaN or infinity."""


class NotFiniteError(UserError):
    """A forward computed NaN or infinity; ``values`` names the result, ``dtype`` is that of the weights."""

    def __init__(self, values: str, dtype: torch.dtype) -> None:
        name = str(dtype).removeprefix("torch.")
        super().__init__(
            f"{values} are not finite: the weights are damaged, or their products are too large for {name}; "
            "check the checkpoint, or use another number format"
        )
