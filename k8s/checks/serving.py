"""Checks a RayService: its Serve config, that the head waits for the model, and when engines get traffic."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.manifests import Resource, cluster_spec, ray_head, serve_settings
from lladav.errors import UserError
from serve.ops.config_check import check as check_config

HEALTH = (":52365/api/local_raylet_healthz", ":8000/-/healthz")
"""What KubeRay's own probe of a worker asks: its Ray node and its Serve proxy."""
PROBE_SECONDS = 1


def check(resource: Resource) -> Iterator[str]:
    """The first mistake in ``serveConfigV2``, and mistakes in probes; nothing for other kinds."""
    if resource["kind"] != "RayService":
        return
    try:
        check_config(resource)
    except UserError as error:
        yield f"serveConfigV2: {error}"
        return
    model, containers = serve_settings(resource).model, ray_head(resource).get("initContainers", [])
    awaited = [
        variable["value"] for each in containers for variable in each["env"] if variable["name"] == "MODEL"
    ]
    if awaited != [model]:
        yield f"the head waits for the model {awaited}, but {model} is served"
    yield from _probes(resource)


def _probes(service: Resource) -> Iterator[str]:
    """An upgrade moves the traffic when Serve's application runs; the new pods have to be ready by then."""
    spec = cluster_spec(service)
    assert spec is not None
    for group in spec["workerGroupSpecs"]:
        probe = group["template"]["spec"]["containers"][0].get("readinessProbe") or {}
        command = " ".join((probe.get("exec") or {}).get("command", []))
        if any(path not in command for path in HEALTH):
            yield f"{group['groupName']}: its readinessProbe does not ask {' and '.join(HEALTH)}"
        if probe.get("periodSeconds", 10) > PROBE_SECONDS:
            yield f"{group['groupName']}: its readinessProbe is slow; an upgrade has no endpoint meanwhile"
