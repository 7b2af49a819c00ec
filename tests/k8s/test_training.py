"""RayJobs that would wait for too many nodes, keep them, end while they wait, or run in the wrong order."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from k8s.checks.training import QUEUE, check
from k8s.manifests import FOLDER, OVERLAYS, Resource, of_kind, title, with_component
from tests.k8s.edits import changed

pytestmark = pytest.mark.usefixtures("overlays")  # skips the tests if kubectl is missing
GROUP = ("rayClusterSpec", "workerGroupSpecs", 0)


@pytest.fixture
def spot(overlays: dict[str, list[Resource]]) -> Resource:
    """A job that starts with four workers and grows to eight."""
    return next(each for each in of_kind(overlays["spot"], "RayJob") if title(each) == "RayJob lladav-si")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_jobs_are_accepted(overlays: dict[str, list[Resource]], overlay: str) -> None:
    assert [line for job in of_kind(overlays[overlay], "RayJob") for line in check(job)] == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*GROUP, "replicas"), 8, "replicas: 8; the job starts with all of them, and the run needs 4"),
        (("rayClusterSpec", "enableInTreeAutoscaling"), False, "4 workers never become 8"),
        (("ttlSecondsAfterFinished",), 3600, "stay reserved for so long"),
        (("preRunningDeadlineSeconds",), None, "activeDeadlineSeconds includes the wait for nodes"),
        (("activeDeadlineSeconds",), 3600, "activeDeadlineSeconds includes the wait for nodes"),
    ],
)
def test_mistakes(spot: Resource, path: tuple[str | int, ...], value: Any, says: str) -> None:
    [line] = check(changed(spot, path, value))
    assert says in line


def test_kueue_gets_only_the_job_that_keeps_the_order() -> None:
    built = with_component(FOLDER / "overlays" / "gpu", "kueue")
    queued = [title(job) for job in of_kind(built, "RayJob") if QUEUE in job["metadata"]["labels"]]
    assert queued == ["RayJob lladav-curriculum"]


def test_a_queued_stage_and_a_queued_cluster_that_scales_itself(spot: Resource) -> None:
    queued = copy.deepcopy(spot)
    queued["metadata"]["labels"][QUEUE] = "lladav"
    order, scaling = check(queued)
    assert "the stage starts from pretrain; queue the job of all stages" in order
    assert "Kueue admits no job with enableInTreeAutoscaling" in scaling
