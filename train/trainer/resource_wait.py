"""Notices that a run waits for the resources of its workers.

Only the log of Ray Train's controller has such a wait. It ends when resources become free or an autoscaler
adds nodes; on a cluster that is too small it does not end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table

from lladav.config.schema import ClusterConfig
from train.trainer.progress import repeating, report

FIRST_SECONDS, NEXT_SECONDS = 30.0, 300.0
"""Seconds without workers before the first notice, and between two."""
POLL_SECONDS = 5.0


@contextmanager
def reported_wait(
    stage: str, cluster: ClusterConfig, first: float = FIRST_SECONDS, poll: float = POLL_SECONDS
) -> Iterator[None]:
    """Report while the block runs that this Ray job has no placement group with resources."""
    due = time.monotonic() + first

    def check() -> None:
        nonlocal due
        with suppress(RayError):  # Ray Train reports a cluster that is lost
            now = time.monotonic()
            if "CREATED" in placement_groups().values():
                due = now + first
            elif now >= due:
                report(waiting_line(stage, cluster, ray.available_resources()))
                due = now + NEXT_SECONDS

    with repeating(check, poll):
        yield


def placement_groups() -> dict[str, str]:
    """The states of this Ray job's placement groups, by id. Ray Train's workers run in one."""
    job_id = ray.get_runtime_context().get_job_id()  # an id of a group ends with that of its job
    groups = placement_group_table().items()
    return {group_id: group["state"] for group_id, group in groups if group_id.endswith(job_id)}


def waiting_line(stage: str, cluster: ClusterConfig, free: Mapping[str, float]) -> str:
    """The needs of a worker group beside the free resources of the cluster."""
    each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    needed = " and ".join(f"{count:g} {kind}" for kind, count in each.items() if count)
    there = " and ".join(f"{free.get(kind, 0):g} {kind}" for kind, count in each.items() if count)
    workers = f"{cluster.min_workers or cluster.workers} workers with {needed} each"
    return f"{stage:<8} waits for {workers}; free in the cluster: {there}"
