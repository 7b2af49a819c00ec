from __future__ import annotations

import shutil

import pytest

from k8s.manifests import FOLDER, Resource, build, of_kind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of manifests if kubectl, which builds them, is missing."""
    if shutil.which("kubectl") is None:
        for item in items:
            if "/k8s/" in str(item.path) and "overlays" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="kubectl is missing"))


@pytest.fixture(scope="session")
def overlays() -> dict[str, list[Resource]]:
    """The objects of every overlay."""
    folders = sorted(path.parent for path in (FOLDER / "overlays").glob("*/kustomization.yaml"))
    return {folder.name: build(folder) for folder in folders}


@pytest.fixture
def service(overlays: dict[str, list[Resource]]) -> Resource:
    """The RayService of the 8B model."""
    [found] = of_kind(overlays["gpu"], "RayService")
    return found


@pytest.fixture
def job(overlays: dict[str, list[Resource]]) -> Resource:
    """A training job of the 8B model."""
    return next(
        each for each in of_kind(overlays["gpu"], "RayJob") if each["metadata"]["name"] == "lladav-si"
    )
