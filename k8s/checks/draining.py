"""Whether pods have enough time to drain before Kubernetes kills them.

On SIGTERM ``ray start --block`` drains its node for at most ``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S``: Serve
starts replacements on other nodes, then its replicas and the proxy on this node finish their requests and
end. Serve stops a replica ``engine.drain_seconds`` before that deadline, with or without a replacement. When
nothing runs on the node any more, Ray ends at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from k8s.manifests import Resource, cluster_spec, ray_env, serve_settings
from serve.settings import ServeSettings

START = "lladav/replica-start-seconds"
"""Annotation of a worker pod: seconds until a new replica answers, including its machine and its image."""
TIMEOUT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"

SERVE_SECONDS = 10.0
"""Margin for the drain request and for Serve's controller, which runs ten times per second."""
PROXY_SECONDS = 35.0
"""A proxy of a draining node stays for 30 s, so that load balancers notice; it is checked every 5 s."""
STOP_SECONDS = 15.0
"""For Ray's own end after the drain: it gives each of its processes a second before it kills it."""


class DrainTimes(NamedTuple):
    """The times that the manifest of a worker pod needs, in whole seconds."""

    drain: int
    """``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S`` of the Ray container."""
    pod: int
    """``terminationGracePeriodSeconds``, which starts with SIGTERM."""


def drain_times(settings: ServeSettings, start_seconds: float) -> DrainTimes:
    """The times that a worker pod needs to end without failing a request.

    A replacement takes ``start_seconds``; the old replica then has ``engine.drain_seconds`` to finish. The
    proxy on the node serves requests of any replica, which end after ``limits.deadline_ms`` at the latest.
    """
    replicas = start_seconds + settings.engine.drain_seconds
    proxy = PROXY_SECONDS + settings.limits.deadline_ms / 1000
    drain = math.ceil(max(replicas, proxy) + SERVE_SECONDS)
    return DrainTimes(drain, math.ceil(drain + STOP_SECONDS))


def check(resource: Resource) -> Iterator[str]:
    """Drain times of a RayService's pods, and of the old cluster of an upgrade; nothing for other kinds."""
    if resource["kind"] != "RayService":
        return
    settings, spec = serve_settings(resource), cluster_spec(resource)
    assert spec is not None
    for group in spec["workerGroupSpecs"]:
        yield from _group(group, settings)
    needed = math.ceil(settings.limits.deadline_ms / 1000 + PROXY_SECONDS)
    delay = resource["spec"].get("rayClusterDeletionDelaySeconds", 60)
    if delay < needed:
        yield f"rayClusterDeletionDelaySeconds: {delay} is less than {needed}, a request and a margin"


def _group(group: Resource, settings: ServeSettings) -> Iterator[str]:
    template, name = group["template"], group["groupName"]
    start = template["metadata"].get("annotations", {}).get(START)
    if start is None:
        yield f"group {name}: has no annotation {START}, which determines its drain time"
        return
    needed = drain_times(settings, float(start))
    timeout = int(ray_env(template["spec"]).get(TIMEOUT) or 30)  # Ray's default
    if timeout < needed.drain:
        yield f"group {name}: {TIMEOUT} is {timeout}; {needed.drain} s are needed"
    grace = template["spec"].get("terminationGracePeriodSeconds", 30)
    if grace < timeout + needed.pod - needed.drain:
        yield f"group {name}: terminationGracePeriodSeconds: {grace} is too short for {timeout} s of draining"
