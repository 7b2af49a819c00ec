"""Checks of the values of tensors."""

from __future__ import annotations

from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    # The sum is several times cheaper than a check of each value. It may overflow although all are finite.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
