"""RayJobs that start with the nodes that a run needs, end in time, and wait for each other in queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from k8s.manifests import Resource, training_configs
from lladav.config.schema import Config

MAX_IDLE_SECONDS = 300
"""How long a Ray cluster may stay after its job, with its nodes reserved."""
QUEUE = "kueue.x-k8s.io/queue-name"


def check(resource: Resource) -> Iterator[str]:
    """Mistakes in a RayJob; nothing for other kinds."""
    if resource["kind"] != "RayJob":
        return
    spec, configs = resource["spec"], training_configs(resource)
    yield from _end(spec)
    if configs:
        yield from _size(spec["rayClusterSpec"], configs[0])
    if QUEUE in resource["metadata"].get("labels", {}):
        yield from _queue(spec, configs)


def _size(cluster: Resource, config: Config) -> Iterator[str]:
    """KubeRay submits a job when all replicas run; a run starts with ``cluster.min_workers``."""
    most = config.cluster.workers
    fewest = config.cluster.min_workers or most
    [group] = cluster["workerGroupSpecs"]
    if group["replicas"] != fewest:
        yield f"replicas: {group['replicas']}; the job starts with all of them, and the run needs {fewest}"
    if fewest < most and not cluster.get("enableInTreeAutoscaling"):
        yield f"enableInTreeAutoscaling is off: {fewest} workers never become {most}"


def _end(spec: Resource) -> Iterator[str]:
    idle = spec.get("ttlSecondsAfterFinished", 0)
    if idle > MAX_IDLE_SECONDS:
        yield f"ttlSecondsAfterFinished: {idle}: the nodes of a finished job stay reserved for so long"
    wait: Any = spec.get("preRunningDeadlineSeconds")
    if "activeDeadlineSeconds" in spec and (wait is None or wait >= spec["activeDeadlineSeconds"]):
        yield "activeDeadlineSeconds includes the wait for nodes; set a smaller preRunningDeadlineSeconds"


def _queue(spec: Resource, configs: list[Config]) -> Iterator[str]:
    """Kueue starts jobs in the order of their creation, which is alphabetical in an overlay."""
    if len(configs) == 1 and configs[0].stage.previous:
        yield f"{QUEUE}: the stage starts from {configs[0].stage.previous}; queue the job of all stages"
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
        yield f"{QUEUE}: Kueue admits no job with enableInTreeAutoscaling"
