"""The learning rate schedule: linear warm-up, then a cosine to zero.

It is a pure function of the step, so checkpoints hold no scheduler state.
"""

from __future__ import annotations

import math


def lr_factor(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Factor for the base learning rates at ``step``, counted from 0.

    Warm-up starts at 0 and takes ceil(total_steps * warmup_ratio) steps, as in the released trainer.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
