"""Every overlay passes all checks, alone and with each of its optional components."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.check import OPTIONS, of_files, of_overlay
from k8s.manifests import FOLDER, OVERLAYS, Resource, of_kind, title, with_component

CHANGED = [(overlay, component) for overlay, components in OPTIONS.items() for component in components]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_pass(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [*of_overlay(overlay, overlays[overlay])] == []


@pytest.mark.parametrize(("overlay", "component"), CHANGED)
def test_overlays_with_a_component_pass(
    overlays: dict[str, list[Resource]], overlay: str, component: str
) -> None:
    changed = with_component(FOLDER / "overlays" / overlay, component)
    assert changed != overlays[overlay]
    assert [*of_overlay(overlay, changed, component)] == []


def test_files_pass() -> None:
    assert [*of_files()] == []


def test_every_overlay_and_every_component_is_checked(overlays: dict[str, list[Resource]]) -> None:
    assert set(overlays) == set(OVERLAYS) == set(OPTIONS)
    used = {component for components in OPTIONS.values() for component in components}
    always = {path for file in FOLDER.rglob("kustomization.yaml") for path in _components_in(file)}
    folders = {path.parent.name for path in (FOLDER / "components").glob("*/kustomization.yaml")}
    assert folders == used | always


def _components_in(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {line.rsplit("/", 1)[1] for line in lines if line.startswith(("- ../../components/", "- ../"))} - {
        "base",
        "serving",
    }


def test_production_has_fault_tolerance_and_two_replicas(service: Resource) -> None:
    spec = service["spec"]
    assert "gcsFaultToleranceOptions" in spec["rayClusterConfig"]
    assert spec["excludeHeadPodFromServeSvc"]
    assert "min_replicas: 2" in spec["serveConfigV2"]
    assert spec["rayClusterConfig"]["workerGroupSpecs"][0]["minReplicas"] == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_cluster_requires_a_token(overlays: dict[str, list[Resource]], overlay: str) -> None:
    for resource in of_kind(overlays[overlay], "RayJob", "RayService"):
        cluster = resource["spec"].get("rayClusterConfig") or resource["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}, title(resource)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_live_in_one_namespace(overlays: dict[str, list[Resource]], overlay: str) -> None:
    outside = {"Namespace", "PriorityClass"}
    found = {r["metadata"].get("namespace") for r in overlays[overlay] if r["kind"] not in outside}
    assert found == {"lladav"}
    assert all(r["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lladav" for r in overlays[overlay])
