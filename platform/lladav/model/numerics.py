"""Checks of numbers in tensors."""

from __future__ import annotations

from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite.

    A sum is several times cheaper than a look at each value, which decides only where the sum is not finite.
    """
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
