"""Whether all replicas and workers fit on the nodes that the cluster may have.

The node types are those that Ray's own autoscaler derives from the manifests. A service needs a node more
than its replicas fill: a node that drains still counts, and its replicas' replacements need one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from k8s.manifests import Resource, ray_cluster, serve_settings, training_configs
from lladav.config.cli import key_values
from serve.offline.settings import load_batch
from serve.settings import ServeSettings

Demand = dict[str, float]
"""Ray resources by name."""


def check(resource: Resource) -> Iterator[str]:
    """The resources of a RayService or a RayJob; nothing for other kinds."""
    if resource["kind"] == "RayService":
        types = {name: _without_spare(kind) for name, kind in node_types(resource).items()}
        for line in unplaced(types, serving_demands(serve_settings(resource))):
            yield f"{line}. One node more is for the replicas of a node that drains"
    if resource["kind"] == "RayJob":
        yield from unplaced(node_types(resource), job_demands(resource))


def node_types(resource: Resource) -> dict[str, dict[str, Any]]:
    """The node types and their maximum counts, as Ray's autoscaler reads them."""
    return _derive_autoscaling_config_from_ray_cr(ray_cluster(resource))["available_node_types"]


def _without_spare(kind: dict[str, Any]) -> dict[str, Any]:
    return {**kind, "max_workers": kind["max_workers"] - 1}


def serving_demands(settings: ServeSettings) -> list[Demand]:
    """The resources of all replicas at their maximum counts."""
    engine, ingress = settings.engine, settings.ingress
    engines = [{"CPU": engine.cpus, "GPU": engine.gpus}] * engine.max_replicas
    return [*engines, *[{"CPU": ingress.cpus}] * ingress.replicas]


def job_demands(job: Resource) -> list[Demand]:
    """The resources of a stage's workers, or of the engines of batch inference."""
    if not (configs := training_configs(job)):
        _, _, *overrides = shlex.split(job["spec"]["entrypoint"])
        engine = load_batch(key_values(overrides)).engine
        return [{"CPU": engine.cpus, "GPU": engine.gpus}] * engine.max_replicas
    cluster = configs[0].cluster
    return [{"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}] * cluster.workers


def unplaced(types: dict[str, dict[str, Any]], demands: Sequence[Demand]) -> Iterator[str]:
    """The first demand that does not fit if every group has its maximum size; largest demands first."""
    free = [dict(kind["resources"]) for kind in types.values() for _ in range(kind["max_workers"])]
    count, demand = len(free), first_unplaced(free, demands)
    if demand is not None:
        yield f"{demand} does not fit on {count} nodes; raise maxReplicas or the resources of a pod"


def first_unplaced(free: list[Demand], demands: Sequence[Demand]) -> Demand | None:
    """Place demands, the largest first, on the first node with room; takes from ``free``."""
    for demand in sorted(demands, key=lambda each: (-each.get("GPU", 0), -each["CPU"])):
        node = next((node for node in free if _fits(demand, node)), None)
        if node is None:
            return demand
        for name, amount in demand.items():
            node[name] = node.get(name, 0) - amount
    return None


def _fits(demand: Demand, node: Demand) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in demand.items())
