"""What runs fits the nodes that Ray's autoscaler may start, and leaves in the time that pods have."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.checks.capacity import check, node_types, serving_demands, training_demands, unplaced
from k8s.manifests import Resource, serve_settings
from serve.drain import grace_seconds
from tests.k8s.edits import changed

GROUP = ("rayClusterConfig", "workerGroupSpecs", 0)
CONTAINER = (*GROUP, "template", "spec", "containers", 0)


def test_ray_reads_our_groups_as_nodes(service: Resource, job: Resource) -> None:
    engines = node_types(service)["engines"]
    assert (engines["min_workers"], engines["max_workers"]) == (2, 4)
    assert engines["resources"] == {"CPU": 8, "GPU": 1, "memory": 64 * 2**30}
    assert node_types(service)["headgroup"]["resources"]["CPU"] == 0
    assert node_types(job)["workers"]["max_workers"] == 8


def test_replicas_and_workers_are_those_of_conf(service: Resource, job: Resource) -> None:
    assert serving_demands(serve_settings(service)) == [{"CPU": 4, "GPU": 1}] * 4 + [{"CPU": 2}] * 2
    assert training_demands(job) == [{"CPU": 8, "GPU": 1}] * 8


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*GROUP, "maxReplicas"), 3, "finds no room on 3 nodes"),
        ((*CONTAINER, "resources", "limits", "cpu"), "4", "{'CPU': 2.0} finds no room"),
        ((*CONTAINER, "resources"), {"limits": {"cpu": "8"}}, "'GPU': 1.0} finds no room"),
        ((*CONTAINER, "lifecycle", "preStop", "exec", "command"), ["sleep", "999"], "preStop drains for 0 s"),
        ((*CONTAINER, "lifecycle"), {}, "preStop drains for 0 s"),
        ((*GROUP, "template", "spec", "terminationGracePeriodSeconds"), 930, "930 is too little"),
        ((*GROUP, "template", "metadata", "annotations"), {}, "has no annotation"),
        (("rayClusterDeletionDelaySeconds",), 60, "60 is less than 335"),
    ],
)  # fmt: skip
def test_what_does_not_fit(service: Resource, path: tuple[str | int, ...], value: Any, says: str) -> None:
    assert [*check(service)] == []
    assert any(says in line for line in check(changed(service, path, value)))


def test_fewer_pods_than_workers(job: Resource) -> None:
    group = ("rayClusterSpec", "workerGroupSpecs", 0)
    few = changed(changed(job, (*group, "minReplicas"), 7), (*group, "maxReplicas"), 7)
    assert any("finds no room on 7 nodes" in line for line in check(few))


def test_the_largest_is_placed_first() -> None:
    types = {
        "a": {"resources": {"CPU": 4}, "max_workers": 1},
        "b": {"resources": {"CPU": 2}, "max_workers": 1},
    }
    assert [*unplaced(types, [{"CPU": 2}, {"CPU": 4}])] == []
    assert len([*unplaced(types, [{"CPU": 3}, {"CPU": 3}])]) == 1


def test_the_hook_of_the_manifest_is_what_the_settings_need(service: Resource) -> None:
    """Not less, which would cut requests off, nor much more, which would hold nodes for nothing."""
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    start = float(group["metadata"]["annotations"]["lladav/replica-start-seconds"])
    needed = grace_seconds(serve_settings(service), start)
    pod = group["spec"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == str(needed.hook)
    assert pod["terminationGracePeriodSeconds"] == needed.pod
