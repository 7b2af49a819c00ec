"""Kinds whose CRDs an empty cluster lacks."""

from __future__ import annotations

import pytest

from k8s.checks.kinds import check
from k8s.manifests import FOLDER, OVERLAYS, Resource, with_component

pytestmark = pytest.mark.usefixtures("overlays")  # skips the tests if kubectl is missing


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_empty_cluster_needs_only_kuberay(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [*check(overlays[overlay])] == []


def test_foreign_kinds_belong_to_components_that_the_readme_explains() -> None:
    built = with_component(FOLDER / "overlays" / "dev-cpu", "monitoring")
    assert [line.split(":")[0] for line in check(built)] == ["PodMonitor", "PrometheusRule"]
    assert [*check(built, "monitoring")] == []
    unsaid = "the component `monitoring` needs the Prometheus operator"
    assert all("does not say" in line for line in check(built, "monitoring", unsaid))
    assert len([*check(built, "monitoring", unsaid)]) == 2
