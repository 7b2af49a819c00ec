"""Whether everything that runs at the same time fits on the nodes that ``k8s/README.md`` names.

The README states the nodes of each overlay once, as in "1 node of 8 cores, 24 GiB". Every step of its
quickstart is checked: the pods that Kubernetes and the operator run, the service, and one job.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ray.autoscaler._private.kuberay.utils import parse_quantity

from k8s.checks.capacity import Demand, first_unplaced
from k8s.manifests import FOLDER, Resource, cluster_spec, of_kind, title
from lladav.errors import UserError

SIZE = r"^\| `{overlay}` \|.*?(\d+) nodes? of (\d+) cores, (\d+) GiB(?:, (\d+) GPUs?)?"
GIB = 2**30
RESOURCES = {"cpu": "CPU", "memory": "memory", "nvidia.com/gpu": "GPU"}


class Pod(NamedTuple):
    """A pod, or a group of pods that are summed in messages, and what it requests."""

    name: str
    requests: Demand


SYSTEM = Pod("system pods", {"CPU": 0.95, "memory": 290 * 2**20})
"""kubeadm's control plane, two CoreDNS pods and kind's network: the requests of their manifests."""
OPERATOR = Pod("operator", {"CPU": 0.1, "memory": 512 * 2**20})
"""The limits of the chart kuberay-operator 1.7.0, which are its requests."""


def nodes(overlay: str, readme: str) -> list[Demand]:
    """The nodes that the README names for an overlay. Raises ``UserError`` if it names none."""
    found = re.search(SIZE.format(overlay=re.escape(overlay)), readme, re.MULTILINE)
    if found is None:
        raise UserError(f"k8s/README.md: names no nodes for {overlay}; write: 1 node of 8 cores, 24 GiB")
    count, cores, gib, gpus = (int(number or 0) for number in found.groups())
    return [{"CPU": cores, "memory": gib * GIB, "GPU": gpus} for _ in range(count)]


def check(overlay: str, resources: Sequence[Resource], readme: str | None = None) -> Iterator[str]:
    """The steps of an overlay that need more than its nodes, each with its sum."""
    text = readme or (FOLDER / "README.md").read_text(encoding="utf-8")
    for step, pods in steps(resources):
        free = [dict(node) for node in nodes(overlay, text)]
        if first_unplaced(free, [pod.requests for pod in pods]) is not None:
            yield f"{step}: {_sum(pods)}; k8s/README.md names {_sum_of_nodes(nodes(overlay, text))}"


def steps(resources: Sequence[Resource]) -> Iterator[tuple[str, list[Pod]]]:
    """What runs at the same time: a job beside the idle service; the service at its largest; an upgrade."""
    every, services = list(resources), of_kind(list(resources), "RayService")
    always = [SYSTEM, OPERATOR, *(pod for each in every for pod in _deployed(each))]
    idle = [pod for service in services for pod in ray_pods(service, "replicas")]
    for job in of_kind(every, "Job"):
        yield title(job), [*always, *idle, Pod("job", requests(job["spec"]["template"]["spec"]))]
    for job in of_kind(every, "RayJob"):
        submitter = Pod("submitter", requests(job["spec"]["submitterPodTemplate"]["spec"]))
        yield title(job), [*always, *idle, *ray_pods(job, "maxReplicas"), submitter]
    for service in services:
        yield f"{title(service)} with all replicas", [*always, *ray_pods(service, "maxReplicas")]
        yield f"{title(service)} in an upgrade", [*always, *idle, *ray_pods(service, "replicas")]


def ray_pods(resource: Resource, count: str) -> Iterator[Pod]:
    """The head and the workers of a Ray cluster; ``count`` is the field with the number of workers."""
    spec = cluster_spec(resource)
    assert spec is not None
    head = spec["headGroupSpec"]["template"]["spec"]
    if spec.get("enableInTreeAutoscaling"):  # KubeRay adds the autoscaler's container
        head = {**head, "containers": [*head["containers"], spec["autoscalerOptions"]]}
    yield Pod(f"{resource['kind']} head", requests(head))
    for group in spec["workerGroupSpecs"]:
        for _ in range(group[count]):
            yield Pod(f"{resource['kind']} worker", requests(group["template"]["spec"]))


def _deployed(resource: Resource) -> Iterator[Pod]:
    if resource["kind"] in ("Deployment", "StatefulSet"):
        yield Pod(resource["metadata"]["name"], requests(resource["spec"]["template"]["spec"]))


def requests(pod: Resource) -> Demand:
    """What the scheduler reserves: the sum of the containers, or the largest init container."""
    containers = [_container(each) for each in pod["containers"]]
    first = [_container(each) for each in pod.get("initContainers") or []]
    return {
        name: max([sum(each[name] for each in containers), *(each[name] for each in first)])
        for name in RESOURCES.values()
    }


def _container(container: Resource) -> Demand:
    amounts = container["resources"]["requests"]
    return {ours: float(parse_quantity(amounts.get(theirs, 0))) for theirs, ours in RESOURCES.items()}


def _sum(pods: Sequence[Pod]) -> str:
    """As in ``8.35 cores, 15 GiB, 0 GPUs (2 x RayJob worker 3 cores, ...)``."""
    counts = Counter(pod.name for pod in pods)
    each = {pod.name: pod.requests for pod in pods}
    parts = [f"{count} x {name} {each[name]['CPU']:g} cores" for name, count in counts.items()]
    return f"{_amounts([pod.requests for pod in pods])} ({', '.join(parts)})"


def _sum_of_nodes(all_nodes: Sequence[Demand]) -> str:
    return f"{_amounts(all_nodes)} on {len(all_nodes)} nodes"


def _amounts(demands: Sequence[Demand]) -> str:
    cores, memory, gpus = (sum(each.get(name, 0) for each in demands) for name in ("CPU", "memory", "GPU"))
    return f"{cores:.2f} cores, {memory / GIB:.1f} GiB, {gpus:g} GPUs"
