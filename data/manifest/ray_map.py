"""``map`` over Ray tasks, for the one pass that makes a manifest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from lladav.errors import UserError

AHEAD_PER_CPU = 2


def ray_map(function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
    """Like ``map`` with the calls spread over the cluster; results come in order, few are held at a time.

    A ``UserError`` of a task is raised as it was.
    """
    task = ray.remote(function)
    limit = AHEAD_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[ray.ObjectRef] = deque()
    for arguments in zip(*iterables, strict=False):
        pending.append(task.remote(*arguments))
        if len(pending) > limit:
            yield _result(pending.popleft())
    while pending:
        yield _result(pending.popleft())


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
