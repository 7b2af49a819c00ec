"""Whether all replicas and workers fit on the nodes that the cluster may have.

The node types are those that Ray's own autoscaler derives from the manifests.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from k8s.manifests import Resource, ray_cluster, serve_settings
from lladav.config.cli import key_values
from lladav.config.loader import load as load_training
from serve.offline.settings import load_batch
from serve.settings import ServeSettings

BATCH = "serve/batch.py"
"""Command of batch inference."""
Demand = dict[str, float]
"""Ray resources by name."""


def check(resource: Resource) -> Iterator[str]:
    """The resources of a RayService or a RayJob; nothing for other kinds."""
    if resource["kind"] == "RayService":
        yield from unplaced(node_types(resource), serving_demands(serve_settings(resource)))
    if resource["kind"] == "RayJob":
        yield from unplaced(node_types(resource), job_demands(resource))


def node_types(resource: Resource) -> dict[str, dict[str, Any]]:
    """The node types and their maximum counts, as Ray's autoscaler reads them."""
    return _derive_autoscaling_config_from_ray_cr(ray_cluster(resource))["available_node_types"]


def serving_demands(settings: ServeSettings) -> list[Demand]:
    """The resources of all replicas at their maximum counts."""
    engine, ingress = settings.engine, settings.ingress
    engines = [{"CPU": engine.cpus, "GPU": engine.gpus}] * engine.max_replicas
    return [*engines, *[{"CPU": ingress.cpus}] * ingress.replicas]


def job_demands(job: Resource) -> list[Demand]:
    """The resources of a stage's workers, or of the engines of batch inference."""
    _, entry, *overrides = shlex.split(job["spec"]["entrypoint"])
    if entry == BATCH:
        engine = load_batch(key_values(overrides)).engine
        return [{"CPU": engine.cpus, "GPU": engine.gpus}] * engine.max_replicas
    cluster = load_training(overrides).cluster
    return [{"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}] * cluster.workers


def unplaced(types: dict[str, dict[str, Any]], demands: Sequence[Demand]) -> Iterator[str]:
    """The first demand that does not fit if every group has its maximum size; largest demands first."""
    free = [dict(kind["resources"]) for kind in types.values() for _ in range(kind["max_workers"])]
    for demand in sorted(demands, key=lambda each: (-each.get("GPU", 0), -each["CPU"])):
        node = next((node for node in free if _fits(demand, node)), None)
        if node is None:
            yield f"{demand} does not fit on {len(free)} nodes; raise maxReplicas or the resources of a pod"
            return
        for name, amount in demand.items():
            node[name] = node.get(name, 0) - amount


def _fits(demand: Demand, node: Demand) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in demand.items())
