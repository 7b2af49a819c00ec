"""Our own policies for pods and for references to other objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from k8s.manifests import Resource, cluster_spec, pod_templates, ray_head, title

EXTERNAL_REFERENCES = {
    "Secret lladav-keys": "API keys",
    "Secret lladav-ray-token": "Ray's token, if others than the operator need it",
    "Secret lladav-redis": "the password of Redis",
}
"""Objects that the manifests refer to but do not contain; ``k8s/README.md`` says how to create them."""

CLEANUP = "redis-cleanup"
"""The label ``ray.io/node-type`` of the pod with which KubeRay deletes a cluster's state from Redis."""

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
        yield from (f"{title(resource)}: {line}" for line in _head(resource))


def _head(resource: Resource) -> Iterator[str]:
    """A head can run Ray's autoscaler, and KubeRay's cleanup of Redis, which uses the head's template."""
    spec = cluster_spec(resource)
    if spec is None:
        return
    head = ray_head(resource)
    if spec.get("enableInTreeAutoscaling") and head.get("automountServiceAccountToken") is False:
        yield "the autoscaler in the head needs its token; remove automountServiceAccountToken: false"
    for container in head.get("initContainers") or []:
        if "gcsFaultToleranceOptions" in spec and CLEANUP not in str(container["command"]):
            yield f"init container {container['name']} also delays the cleanup of Redis; end it for {CLEANUP}"


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
