"""``map`` over Ray tasks, for building a manifest in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from lladav.errors import UserError

PENDING_TASKS_PER_CPU = 2


def ray_map(function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
    """Like ``map``, with the calls as Ray tasks; results are in order and only a few are held at a time.

    A ``UserError`` raised in a task is raised here unchanged.
    """
    task = ray.remote(function)
    limit = PENDING_TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
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
