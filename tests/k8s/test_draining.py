"""Pods have enough time to drain, and not much more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private import ray_constants
from ray.serve._private import constants

from k8s.checks.draining import PROXY_SECONDS, START, STOP_SECONDS, TIMEOUT, check, drain_times
from k8s.manifests import OVERLAYS, Resource, cluster_spec, of_kind, ray_env, serve_settings
from serve.settings import ServeSettings, load
from tests.k8s.edits import changed

GROUP = ("rayClusterConfig", "workerGroupSpecs", 0)
CONTAINER = (*GROUP, "template", "spec", "containers", 0)


def settings_of(drain_seconds: float, deadline_ms: int) -> ServeSettings:
    return load({"model": "m", "engine.drain_seconds": drain_seconds, "limits.deadline_ms": deadline_ms})


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ((*CONTAINER, "env"), [{"name": TIMEOUT, "value": "99"}], f"{TIMEOUT} is 99; 910 s are needed"),
        ((*CONTAINER, "env"), [], f"{TIMEOUT} is 30; 910 s are needed"),
        ((*GROUP, "template", "spec", "terminationGracePeriodSeconds"), 915, "915 is too short"),
        ((*GROUP, "template", "metadata", "annotations"), {}, "has no annotation"),
        (("rayClusterDeletionDelaySeconds",), 60, "60 is less than 335"),
    ],
)
def test_mistakes(service: Resource, path: tuple[str | int, ...], value: Any, expected: str) -> None:
    assert [*check(service)] == []
    assert any(expected in line for line in check(changed(service, path, value)))


@pytest.mark.parametrize("overlay", ["dev-cpu", "gpu"])
def test_the_times_of_the_manifest_are_the_needed_ones(
    overlays: dict[str, list[Resource]], overlay: str
) -> None:
    """Shorter times fail requests; longer ones keep nodes for nothing."""
    [service] = of_kind(overlays[overlay], "RayService")
    template = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    start = float(template["metadata"]["annotations"][START])
    needed = drain_times(serve_settings(service), start)
    assert ray_env(template["spec"])[TIMEOUT] == str(needed.drain)
    assert template["spec"]["terminationGracePeriodSeconds"] == needed.pod


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_pods_outlive_their_drain(overlays: dict[str, list[Resource]], overlay: str) -> None:
    for job in of_kind(overlays[overlay], "RayJob"):
        spec = cluster_spec(job)
        assert spec is not None
        pod = spec["workerGroupSpecs"][0]["template"]["spec"]
        assert int(ray_env(pod)[TIMEOUT] or 0) < pod["terminationGracePeriodSeconds"]


def test_replicas_or_the_proxy_take_longest() -> None:
    assert drain_times(settings_of(300, 60_000), 120) == (430, 445)
    assert drain_times(settings_of(60, 300_000), 20) == (345, 360)


@given(st.floats(0.1, 3600), st.integers(1, 3_600_000), st.floats(0, 3600))
def test_no_replica_is_stopped_before_its_replacement_can_be_up(
    drain_seconds: float, deadline_ms: int, start: float
) -> None:
    """Serve stops a replica ``drain_seconds`` before the deadline."""
    times = drain_times(settings_of(drain_seconds, deadline_ms), start)
    assert times.drain - drain_seconds > start
    assert times.drain > constants.PROXY_MIN_DRAINING_PERIOD_S + deadline_ms / 1000
    assert times.pod > times.drain


def test_the_assumptions_about_ray_hold() -> None:
    assert constants.PROXY_MIN_DRAINING_PERIOD_S + constants.PROXY_DRAIN_CHECK_PERIOD_S <= PROXY_SECONDS
    assert hasattr(ray_constants, TIMEOUT)
    assert STOP_SECONDS > 5
