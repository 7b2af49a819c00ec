"""The Serve config in a RayService is checked as strictly as one in a file."""

from __future__ import annotations

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
