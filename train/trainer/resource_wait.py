"""Notices that a run waits for the resources of its workers.

Ray Train waits for them without a word: for a moment, until an autoscaler has added nodes, or for ever on a
cluster that will never have them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table

from lladav.config.schema import ClusterConfig
from train.trainer.progress import report

FIRST_SECONDS, NEXT_SECONDS = 30.0, 300.0
"""Seconds without workers before the first notice, and between two."""
POLL_SECONDS = 5.0


class ResourceWait:
    """Reports while the block runs that its Ray job has no placement group with resources."""

    def __init__(
        self, stage: str, cluster: ClusterConfig, first: float = FIRST_SECONDS, poll: float = POLL_SECONDS
    ) -> None:
        self._stage, self._cluster, self._first, self._poll = stage, cluster, first, poll
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ResourceWait:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        due = time.monotonic() + self._first
        with suppress(RayError):  # Ray Train reports a cluster that is lost
            while not self._stop.wait(self._poll):
                now = time.monotonic()
                if has_placement_group():
                    due = now + self._first
                elif now >= due:
                    report(waiting_line(self._stage, self._cluster, ray.available_resources()))
                    due = now + NEXT_SECONDS


def has_placement_group() -> bool:
    """Whether a placement group of this Ray job has its resources: Ray Train's workers run in one."""
    job_id = ray.get_runtime_context().get_job_id()
    groups = placement_group_table().items()
    return any(group_id.endswith(job_id) and group["state"] == "CREATED" for group_id, group in groups)


def waiting_line(stage: str, cluster: ClusterConfig, free: Mapping[str, float]) -> str:
    """The needs of a worker group beside the free resources of the cluster."""
    each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    needed = " and ".join(f"{count:g} {kind}" for kind, count in each.items() if count)
    there = " and ".join(f"{free.get(kind, 0):g} {kind}" for kind, count in each.items() if count)
    workers = f"{cluster.min_workers or cluster.workers} workers with {needed} each"
    return f"{stage:<8} waits for {workers}; free in the cluster: {there}"
