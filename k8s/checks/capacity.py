"""Whether what runs fits what the cluster may grow to, and whether pods live long enough to leave in peace.

Node types are those that Ray's own autoscaler derives from our manifests.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from k8s.manifests import Resource, cluster_spec, ray_cluster, serve_settings
from lladav.config.loader import load as load_training
from serve.drain import PROXY_SECONDS, grace_seconds
from serve.settings import ServeSettings

START = "lladav/replica-start-seconds"
"""Annotation of a worker pod: what a new replica takes until it answers, with its machine and its image."""

Demand = dict[str, float]
"""Amounts of Ray's resources."""


def check(resource: Resource) -> Iterator[str]:
    """Resources and times of a RayService or a RayJob; nothing for others."""
    if resource["kind"] == "RayService":
        settings = serve_settings(resource)
        yield from unplaced(node_types(resource), serving_demands(settings))
        yield from _times(resource, settings)
    if resource["kind"] == "RayJob":
        yield from unplaced(node_types(resource), training_demands(resource))


def node_types(resource: Resource) -> dict[str, dict[str, Any]]:
    """What kinds of nodes there may be and how many of each, as Ray's autoscaler reads it."""
    return _derive_autoscaling_config_from_ray_cr(ray_cluster(resource))["available_node_types"]


def serving_demands(settings: ServeSettings) -> list[Demand]:
    """What all replicas need when there are most of them."""
    engine, ingress = settings.engine, settings.ingress
    engines = [{"CPU": engine.cpus, "GPU": engine.gpus}] * engine.max_replicas
    return [*engines, *[{"CPU": ingress.cpus}] * ingress.replicas]


def training_demands(job: Resource) -> list[Demand]:
    """What the workers of a stage need."""
    _, _, *overrides = shlex.split(job["spec"]["entrypoint"])
    cluster = load_training(overrides).cluster
    return [{"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}] * cluster.workers


def unplaced(types: dict[str, dict[str, Any]], demands: Sequence[Demand]) -> Iterator[str]:
    """Demands that find no room, the largest placed first, when every group is at its largest."""
    free = [dict(kind["resources"]) for kind in types.values() for _ in range(kind["max_workers"])]
    for demand in sorted(demands, key=lambda each: (-each.get("GPU", 0), -each["CPU"])):
        node = next((node for node in free if _fits(demand, node)), None)
        if node is None:
            yield f"{demand} finds no room on {len(free)} nodes; raise maxReplicas or what a pod holds"
            return
        for name, amount in demand.items():
            node[name] = node.get(name, 0) - amount


def _fits(demand: Demand, node: Demand) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in demand.items())


def _times(service: Resource, settings: ServeSettings) -> Iterator[str]:
    """The hook, the pod and the old cluster of an upgrade last as long as requests may."""
    spec = cluster_spec(service)
    assert spec is not None
    for group in spec["workerGroupSpecs"]:
        yield from _group_times(group, settings)
    longest = math.ceil(settings.limits.deadline_ms / 1000 + PROXY_SECONDS)
    delay = service["spec"].get("rayClusterDeletionDelaySeconds", 60)
    if delay < longest:
        yield f"rayClusterDeletionDelaySeconds: {delay} is less than {longest}, a request and a margin"


def _group_times(group: Resource, settings: ServeSettings) -> Iterator[str]:
    template, name = group["template"], group["groupName"]
    start = template["metadata"].get("annotations", {}).get(START)
    if start is None:
        yield f"group {name}: has no annotation {START}, from which its grace period follows"
        return
    needed = grace_seconds(settings, float(start))
    hook = template["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {})
    told = int(hook["command"][-1]) if "serve.drain" in hook.get("command", []) else 0
    if told < needed.hook:
        yield f"group {name}: preStop drains for {told} s; {needed.hook} s are needed"
    grace = template["spec"].get("terminationGracePeriodSeconds", 30)
    if grace < told + needed.pod - needed.hook:
        yield f"group {name}: terminationGracePeriodSeconds: {grace} is too little after {told} s of preStop"
