"""Our own policies for pods, references, networks and disruption budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from k8s.manifests import Resource, of_kind, pod_templates, title

EXTERNAL_REFERENCES = {
    "Secret lladav-keys": "API keys",
    "Secret lladav-ray-token": "Ray's token, if others than the operator need it",
    "Secret lladav-redis": "the password of Redis",
}
"""Objects that the manifests refer to but do not contain; ``k8s/README.md`` says how to create them."""

VOLUMES = {
    "Secret": ("secret", "secretName"),
    "ConfigMap": ("configMap", "name"),
    "PersistentVolumeClaim": ("persistentVolumeClaim", "claimName"),
}
"""The kind that a volume source refers to: field of the volume, field of the name."""


def check(resources: Sequence[Resource]) -> Iterator[str]:
    """Violations of the policies in the objects of an overlay."""
    known = {title(resource) for resource in resources} | set(EXTERNAL_REFERENCES)
    for resource in resources:
        for path, template in pod_templates(resource):
            where = f"{title(resource)}: {path}"
            yield from (f"{where}: {line}" for line in _pod(template["spec"]))
            yield from (
                f"{where}: refers to {name}, which does not exist"
                for name in references(template["spec"])
                if name not in known
            )
    yield from _network(resources)
    yield from _disruption(resources)


def _pod(spec: Resource) -> Iterator[str]:
    """The restricted Pod Security Standard, limits, and pinned images."""
    security = spec.get("securityContext") or {}
    if not security.get("runAsNonRoot"):
        yield "runs as root; set securityContext.runAsNonRoot"
    if (security.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "has no seccompProfile RuntimeDefault"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        yield from (f"container {container['name']}: {line}" for line in _container(container))


def _container(container: Resource) -> Iterator[str]:
    security = container.get("securityContext") or {}
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges; set allowPrivilegeEscalation: false"
    if (security.get("capabilities") or {}).get("drop") != ["ALL"]:
        yield "keeps capabilities; drop ALL"
    resources = container.get("resources") or {}
    for size in ("cpu", "memory"):
        if size not in (resources.get("limits") or {}) or size not in (resources.get("requests") or {}):
            yield f"has no request and limit of {size}"
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    if tag in ("", "latest"):
        yield f"image {container['image']} is not pinned"


def references(pod: Resource) -> Iterator[str]:
    """The objects that a pod needs to start, as ``Kind name``."""
    for volume in pod.get("volumes") or []:
        for kind, (source, name) in VOLUMES.items():
            if source in volume:
                yield f"{kind} {volume[source][name]}"
    for container in pod["containers"]:
        for variable in container.get("env") or []:
            yield from _source(variable.get("valueFrom") or {})
    for kind in ("PriorityClass", "ServiceAccount"):
        field = f"{kind[0].lower()}{kind[1:]}Name"
        if field in pod:
            yield f"{kind} {pod[field]}"


def _source(source: dict[str, Any]) -> Iterator[str]:
    for kind in ("Secret", "ConfigMap"):
        key = f"{kind[0].lower()}{kind[1:]}KeyRef"
        if key in source:
            yield f"{kind} {source[key]['name']}"


def _network(resources: Sequence[Resource]) -> Iterator[str]:
    """All traffic is denied by default, and gateways reach only Serve's port."""
    policies = of_kind(list(resources), "NetworkPolicy")
    denies = [p for p in policies if p["spec"]["podSelector"] == {} and not _rules(p)]
    if not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in denies):
        yield "NetworkPolicy: none denies all traffic by default"
    for policy in policies:
        for rule in policy["spec"].get("ingress") or []:
            if not rule.get("from"):
                yield f"{title(policy)}: allows traffic from everywhere; add from:"
        if "gateway" in str(policy["spec"].get("ingress")):
            ports = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
            if ports != [8000]:
                yield f"{title(policy)}: opens {ports} to gateways; Serve's port is 8000"


def _rules(policy: Resource) -> list[Any]:
    return [*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])]


def _disruption(resources: Sequence[Resource]) -> Iterator[str]:
    """All Ray workers have a disruption budget."""
    budgets = [
        each["spec"]["selector"]["matchLabels"] for each in of_kind(list(resources), "PodDisruptionBudget")
    ]
    for resource in of_kind(list(resources), "RayJob", "RayService"):
        for path, template in pod_templates(resource):
            labels = {**template["metadata"]["labels"], "ray.io/node-type": "worker"}
            if "worker" in path and not any(budget.items() <= labels.items() for budget in budgets):
                yield f"{title(resource)}: {path}: no PodDisruptionBudget selects its pods"
