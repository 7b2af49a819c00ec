"""Learning rate as a pure function of the step: linear warm-up, then a cosine to zero.

No scheduler object, so nothing of it has to be saved or restored.
"""

from __future__ import annotations

import math


def lr_factor(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Factor on the base learning rates at ``step`` (counted from 0) of ``total_steps``.

    Warm-up takes ceil(total * ratio) steps and starts at 0, as in the released trainer.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
