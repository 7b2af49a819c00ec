"""Our own policies find mistakes in pods, references, network rules and budgets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from k8s.checks.policies import EXTERNAL_REFERENCES, check
from k8s.manifests import FOLDER, Resource, title

GATEWAYS = {"matchLabels": {"lladav/role": "gateway"}}


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


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("NetworkPolicy deny-all", "none denies all traffic"),
        ("PersistentVolumeClaim lladav-shared", "refers to PersistentVolumeClaim lladav-shared"),
        ("PodDisruptionBudget lladav-serving", "no PodDisruptionBudget selects its pods"),
    ],
)
def test_missing_objects(overlays: dict[str, list[Resource]], gone: str, says: str) -> None:
    assert any(says in line for line in check(without(overlays["gpu"], gone)))


@pytest.mark.parametrize(
    ("name", "rule", "says"),
    [
        ("NetworkPolicy allow-gateway", {"ports": [{"port": 8000}]}, "allows traffic from everywhere"),
        (
            "NetworkPolicy allow-gateway",
            {
                "from": [{"namespaceSelector": {"matchLabels": {"lladav/role": "gateway"}}}],
                "ports": [{"port": 8265}],
            },
            "opens [8265] to gateways",
        ),
    ],
)
def test_network_rules(overlays: dict[str, list[Resource]], name: str, rule: Any, says: str) -> None:
    resources = copy.deepcopy(overlays["gpu"])
    [policy] = [resource for resource in resources if title(resource) == name]
    policy["spec"]["ingress"] = [rule]
    assert any(says in line for line in check(resources))


def test_external_references_are_explained() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(name.split(" ")[1] in readme for name in EXTERNAL_REFERENCES)
