"""Why an answer ends without a result."""

from __future__ import annotations

from enum import StrEnum

import torch

from lladav.errors import UserError


class FailureKind(StrEnum):
    """What went wrong; ``lladav_failures_total`` counts answers by it."""

    prompt = "prompt"
    """The prompt could not be encoded."""
    forward = "forward"
    """A forward raised an error."""
    not_finite = "not_finite"
    """A forward gave numbers that are not finite."""


class NotFiniteError(UserError):
    """A forward gave NaN or infinity; ``numbers`` says of what, ``dtype`` is that of the weights."""

    def __init__(self, numbers: str, dtype: torch.dtype) -> None:
        name = str(dtype).removeprefix("torch.")
        super().__init__(
            f"{numbers} are not finite: the weights are damaged, or their products are too large for {name}; "
            "check the checkpoint, or use another number format"
        )
