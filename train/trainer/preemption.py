"""Notice of nodes that are about to be taken away.

Ray learns of a preemption from ``ray drain-node``, from an autoscaler, or from a SIGTERM to the node's
``ray start --block``. Ray Train polls Ray for it and sends it to each worker.
"""

from __future__ import annotations

import math

from ray.train.v2._internal.execution.context import get_train_context


def preemption_deadline() -> float | None:
    """Unix time at which a node of this worker group is taken away: None if none is, infinite if unknown.

    Not a collective: Ray Train notifies the ranks one after the other, so the caller has to combine their
    answers. ``ray.train.get_preemption_info`` would combine them in an actor call that blocks all ranks.
    """
    info = get_train_context().preemption_context.preemption_info
    if info is None:
        return None
    return info.deadline_ms / 1000 if info.deadline_ms else math.inf
