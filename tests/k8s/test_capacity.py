"""All replicas and workers fit on the nodes that Ray's autoscaler may start."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.checks.capacity import check, job_demands, node_types, serving_demands, unplaced
from k8s.manifests import Resource, serve_settings
from tests.k8s.edits import changed

GROUP = ("rayClusterConfig", "workerGroupSpecs", 0)
CONTAINER = (*GROUP, "template", "spec", "containers", 0)


def test_ray_derives_node_types_from_our_groups(service: Resource, job: Resource) -> None:
    engines = node_types(service)["engines"]
    assert (engines["min_workers"], engines["max_workers"]) == (2, 5)
    assert engines["resources"] == {"CPU": 8, "GPU": 1, "memory": 64 * 2**30}
    assert node_types(service)["headgroup"]["resources"]["CPU"] == 0
    assert node_types(job)["workers"]["max_workers"] == 8


def test_demands_follow_conf(service: Resource, job: Resource) -> None:
    assert serving_demands(serve_settings(service)) == [{"CPU": 4, "GPU": 1}] * 4 + [{"CPU": 2}] * 2
    assert job_demands(job) == [{"CPU": 8, "GPU": 1}] * 8


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*GROUP, "maxReplicas"), 4, "does not fit on 3 nodes"),
        ((*CONTAINER, "resources", "limits", "cpu"), "4", "{'CPU': 2.0} does not fit"),
        ((*CONTAINER, "resources"), {"limits": {"cpu": "8"}}, "'GPU': 1.0} does not fit"),
    ],
)  # fmt: skip
def test_a_service_that_does_not_fit(
    service: Resource, path: tuple[str | int, ...], value: Any, says: str
) -> None:
    assert [*check(service)] == []
    assert any(says in line for line in check(changed(service, path, value)))


def test_a_job_with_fewer_pods_than_workers_does_not_fit(job: Resource) -> None:
    group = ("rayClusterSpec", "workerGroupSpecs", 0)
    few = changed(changed(job, (*group, "minReplicas"), 7), (*group, "maxReplicas"), 7)
    assert any("does not fit on 7 nodes" in line for line in check(few))


def test_the_largest_is_placed_first() -> None:
    types = {
        "a": {"resources": {"CPU": 4}, "max_workers": 1},
        "b": {"resources": {"CPU": 2}, "max_workers": 1},
    }
    assert [*unplaced(types, [{"CPU": 2}, {"CPU": 4}])] == []
    assert len([*unplaced(types, [{"CPU": 3}, {"CPU": 3}])]) == 1
