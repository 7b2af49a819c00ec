"""Nodes that are about to be taken away.

Ray is told of it by whoever takes the node (``ray drain-node``, an autoscaler), or tells itself when the
node's ``ray start --block`` gets SIGTERM. Ray Train asks for it and passes it on to each worker.
"""

from __future__ import annotations

import math

from ray.train.v2._internal.execution.context import get_train_context


def preemption_deadline() -> float | None:
    """Unix time at which a node of this worker's group is taken away; none where no node is.

    It is infinite where nobody says when. Ray Train tells ranks one after the other; the caller has to agree
    with the other ranks. ``ray.train.get_preemption_info`` would do so in an actor call that all ranks wait
    for.
    """
    info = get_train_context().preemption_context.preemption_info
    if info is None:
        return None
    return info.deadline_ms / 1000 if info.deadline_ms else math.inf
