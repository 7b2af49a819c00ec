"""How much a checkpoint takes: one formula for the check before a save and for the table of costs."""

from __future__ import annotations

from lladav.schema import Precision

WEIGHT_BYTES = {Precision.float32: 4, Precision.bf16: 2}
"""Of one exported weight."""
STATE_BYTES = 3 * 4
"""Of one trained parameter: float32 master weight and AdamW's two moments."""


def checkpoint_bytes(parameters: int, trained: int, precision: Precision) -> int:
    """Bytes of a checkpoint over all ranks: all weights once, and the state of the trained ones."""
    return parameters * WEIGHT_BYTES[precision] + trained * STATE_BYTES
