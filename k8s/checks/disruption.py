"""Whether nodes with Ray workers can be drained: budgets that the disruption controller can compute.

A pod's owner needs a scale subresource for ``maxUnavailable`` and for percentages. A RayCluster has none: the
controller then allows no eviction at all. An integer ``minAvailable`` needs only the number of pods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s.manifests import Resource, cluster_spec, of_kind, title


def check(resources: Sequence[Resource]) -> Iterator[str]:
    """Ray workers without a budget, and budgets that allow no eviction or more than one."""
    budgets = of_kind(list(resources), "PodDisruptionBudget")
    for resource in of_kind(list(resources), "RayJob", "RayService"):
        spec = cluster_spec(resource)
        assert spec is not None
        for group in spec["workerGroupSpecs"]:
            where = f"{title(resource)}: group {group['groupName']}"
            yield from (f"{where}: {line}" for line in _group(group, budgets))


def _group(group: Resource, budgets: Sequence[Resource]) -> Iterator[str]:
    labels = {**group["template"]["metadata"]["labels"], "ray.io/node-type": "worker"}
    own = [each for each in budgets if each["spec"]["selector"]["matchLabels"].items() <= labels.items()]
    if not own:
        yield "no PodDisruptionBudget selects its pods"
    for budget in own:
        yield from (f"{title(budget)}: {line}" for line in _budget(budget["spec"], group["minReplicas"]))


def _budget(spec: Resource, pods: int) -> Iterator[str]:
    available, needed = spec.get("minAvailable"), max(pods - 1, 1)
    if "maxUnavailable" in spec or not isinstance(available, int):
        yield "allows no eviction, as a RayCluster has no scale subresource; set an integer minAvailable"
    elif available != needed:
        yield f"minAvailable: {available}; {needed} allows one eviction of {pods} pods, but not of the last"
