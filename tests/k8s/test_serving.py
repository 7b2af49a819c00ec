"""The Serve config in a RayService is checked as strictly as one in a file, and so are its probes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from k8s.checks.serving import check
from k8s.manifests import Resource
from tests.k8s.edits import changed


@pytest.mark.parametrize(
    ("written", "instead", "says"),
    [
        ("route_prefix", "rout_prefix", "rout_prefix: unknown key; did you mean route_prefix?"),
        ("min_replicas", "min_replica", "min_replica"),
        ("max_replicas: 4", "max_replicas: 1", "min_replicas is above max_replicas"),
        ("config: gpu", "config: gpus", "config=gpus"),
        ("llada-v-8b", "llada-v-9b", "the head waits for the model"),
        ("applications:", "applications: [", "not YAML"),
    ],
)
def test_mistakes(service: Resource, written: str, instead: str, says: str) -> None:
    text = service["spec"]["serveConfigV2"]
    assert written in text
    assert [*check(service)] == []
    [line] = check(changed(service, ("serveConfigV2",), text.replace(written, instead)))
    assert says in line


PROBE = ("rayClusterConfig", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "readinessProbe")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (PROBE, None, "does not ask"),
        ((*PROBE, "exec", "command"), ["wget", "http://localhost:8000/-/healthz"], "does not ask"),
        ((*PROBE, "periodSeconds"), 5, "an upgrade has no endpoint meanwhile"),
    ],
)
def test_probes_that_leave_an_upgrade_without_endpoints(
    service: Resource, path: tuple[str | int, ...], value: Any, says: str
) -> None:
    assert any(says in line for line in check(changed(service, path, value)))


@pytest.mark.parametrize(("raylet", "proxy", "ready"), [(1, 1, True), (0, 1, False), (1, 0, False)])
def test_the_probe_needs_the_node_and_its_proxy(
    service: Resource, tmp_path: Path, raylet: int, proxy: int, ready: bool
) -> None:
    """Runs the probe's command with a ``wget`` that answers for the two processes."""
    answers = f'case "$*" in *52365*) ok={raylet};; *) ok={proxy};; esac; test $ok = 0 || echo success'
    (tmp_path / "wget").write_text(f"#!/bin/sh\n{answers}\n")
    (tmp_path / "wget").chmod(0o755)
    probe: Any = service["spec"]
    for part in PROBE:
        probe = probe[part]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(probe["exec"]["command"], env=environment, check=False, timeout=30)
    assert (done.returncode == 0) == ready
