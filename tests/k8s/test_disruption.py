"""Budgets that forbid every eviction, and budgets that allow too many."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from k8s.checks.disruption import check
from k8s.manifests import OVERLAYS, Resource, of_kind


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_budgets_are_accepted(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [*check(overlays[overlay])] == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"maxUnavailable": 1}, "allows no eviction, as a RayCluster has no scale subresource"),
        ({"minAvailable": "50%"}, "set an integer minAvailable"),
        ({"minAvailable": 2}, "minAvailable: 2; 1 allows one eviction of 2 pods"),
        ({"minAvailable": 0}, "minAvailable: 0; 1 allows one eviction of 2 pods"),
        ({"selector": {"matchLabels": {"app": "other"}}}, "no PodDisruptionBudget selects its pods"),
    ],
)
def test_budgets_of_engines(overlays: dict[str, list[Resource]], spec: dict[str, Any], says: str) -> None:
    resources = copy.deepcopy(overlays["gpu"])
    budget = next(
        each for each in of_kind(resources, "PodDisruptionBudget") if "serving" in each["metadata"]["name"]
    )
    if "selector" not in spec:
        del budget["spec"]["minAvailable"]
    budget["spec"].update(spec)
    [line] = check(resources)
    assert says in line


def test_the_last_engine_is_not_evicted(overlays: dict[str, list[Resource]]) -> None:
    budgets = of_kind(overlays["dev-cpu"], "PodDisruptionBudget")
    assert {each["spec"]["minAvailable"] for each in budgets} == {1}
