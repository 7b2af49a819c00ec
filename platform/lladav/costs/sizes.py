"""Sizes of checkpoints and gradients in bytes, for training and for ``k8s.costs``."""

from __future__ import annotations

import math

from lladav.config.schema import Precision

REDUCE_BUCKET = 125_000_000
"""Most gradient elements that are reduced together; each GPU has a float32 buffer for them."""
GRADIENT_BYTES = 4
"""Bytes per trained parameter: gradients are summed in float32."""

WEIGHT_BYTES = {Precision.float32: 4, Precision.bf16: 2}
"""Bytes per exported weight."""
STATE_BYTES = 3 * 4
"""Bytes per trained parameter: float32 master weight and AdamW's two moments."""


def reduce_bucket(trained: int) -> int:
    """Gradient elements that are reduced together, for this many trained parameters."""
    return min(REDUCE_BUCKET, trained)


def staged_bytes(parameters: int, trained: int, precision: Precision, workers: int, ranks: int) -> int:
    """Most bytes of a checkpoint that a machine with ``ranks`` of all ``workers`` ranks writes.

    Rank 0 writes all weights, every rank its shard of the optimizer's state.
    """
    return parameters * WEIGHT_BYTES[precision] + math.ceil(trained / workers) * ranks * STATE_BYTES


def checkpoint_bytes(parameters: int, trained: int, precision: Precision) -> int:
    """Bytes of a checkpoint over all ranks: all weights, and the optimizer's state of the trained ones."""
    return parameters * WEIGHT_BYTES[precision] + trained * STATE_BYTES
