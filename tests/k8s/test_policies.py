"""Our own policies find mistakes in pods, heads and references."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.checks.policies import EXTERNAL_REFERENCES, check
from k8s.manifests import FOLDER, Resource, of_kind, ray_head, title


def pod_of(resources: list[Resource], name: str) -> dict[str, Any]:
    [found] = [resource for resource in resources if title(resource) == name]
    return found["spec"]["template"]["spec"]


def without(resources: list[Resource], name: str) -> list[Resource]:
    return [resource for resource in resources if title(resource) != name]


MISTAKES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "runs as root": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "has no seccompProfile": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "may gain privileges": lambda pod: pod["containers"][0]["securityContext"].clear(),
    "keeps capabilities": lambda pod: pod["containers"][0]["securityContext"].update(capabilities={}),
    "has no request and limit of memory": lambda pod: pod["containers"][0]["resources"]["limits"].pop(
        "memory"
    ),
    "is not pinned": lambda pod: pod["containers"][0].update(image="registry:5000/valkey"),
    "refers to Secret else": lambda pod: pod.update(volumes=[{"secret": {"secretName": "else"}}]),
    "refers to PriorityClass high": lambda pod: pod.update(priorityClassName="high"),
    "refers to ServiceAccount robot": lambda pod: pod.update(serviceAccountName="robot"),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_pods(overlays: dict[str, list[Resource]], says: str) -> None:
    resources = copy.deepcopy(overlays["gpu"])
    MISTAKES[says](pod_of(resources, "StatefulSet lladav-redis"))
    assert any(says in line for line in check(resources))


def test_a_volume_that_does_not_exist(overlays: dict[str, list[Resource]]) -> None:
    claim = "PersistentVolumeClaim lladav-shared"
    assert any(f"refers to {claim}" in line for line in check(without(overlays["gpu"], claim)))


def test_the_autoscaler_in_a_head_has_its_token(overlays: dict[str, list[Resource]]) -> None:
    resources = copy.deepcopy(overlays["spot"])
    assert [*check(resources)] == []
    for job in of_kind(resources, "RayJob"):
        ray_head(job)["automountServiceAccountToken"] = False
    assert any("the autoscaler in the head needs its token" in line for line in check(resources))


def test_an_init_container_that_delays_the_cleanup_of_redis(overlays: dict[str, list[Resource]]) -> None:
    resources = copy.deepcopy(overlays["gpu"])
    [service] = of_kind(resources, "RayService")
    [container] = ray_head(service)["initContainers"]
    container["command"] = ["sh", "-c", "until test -e $MODEL; do sleep 10; done"]
    [line] = check(resources)
    assert "wait-for-model also delays the cleanup of Redis" in line


@pytest.mark.parametrize("node_type", ["head", "redis-cleanup"])
def test_the_head_waits_for_the_model_and_the_cleanup_does_not(
    service: Resource, tmp_path: Path, node_type: str
) -> None:
    """Runs the command of the init container; in the head's pod it ends when the model appears."""
    [container] = ray_head(service)["initContainers"]
    if node_type == "head":
        (tmp_path / "config.json").touch()
    environment = {**os.environ, "MODEL": str(tmp_path), "NODE_TYPE": node_type}
    subprocess.run(container["command"], env=environment, check=True, timeout=30)


def test_external_references_are_explained() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(name.split(" ")[1] in readme for name in EXTERNAL_REFERENCES)
