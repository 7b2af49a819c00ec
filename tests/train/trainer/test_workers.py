"""Which failed attempts are retried, and when a run gives up."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from ray.util import placement_group, placement_group_table

from data.manifest.manifest import Manifest
from lladav.cluster import connect
from lladav.config.schema import ClusterConfig
from lladav.errors import UserError
from tests.train.settings import settings
from train.checkpoints.run_folder import Run
from train.trainer import workers
from train.trainer.failures import Failure
from train.trainer.job import Job
from train.trainer.resource_wait import reported_wait

KILLED = Failure("rank 0: the worker was killed")
PERMANENT = Failure("rank 0: no space left", retry=False)


@dataclass
class Attempt:
    """An attempt that commits a checkpoint after ``step`` and ends with ``failure``, or finishes."""

    step: int
    failure: Failure | None = None


def train(monkeypatch: pytest.MonkeyPatch, attempts: list[Attempt], max_failures: int) -> None:
    """Run ``workers.train`` over the attempts without Ray; fails if it does not make all of them."""
    left, committed = list(attempts), [0]

    class CommittedRun:
        def committed_step(self) -> int:
            return committed[-1]

    def attempt(*_: Any) -> Failure | None:
        now = left.pop(0)
        committed.append(now.step)
        return now.failure

    monkeypatch.setattr(workers, "_attempt", attempt)
    config = settings(Path("unused"))
    config.cluster.max_failures = max_failures
    try:
        workers.train(Job(config, "", 10, None), cast("Manifest", None), cast("Run", CommittedRun()))
    finally:
        assert not left


def test_a_new_checkpoint_resets_the_count_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    train(monkeypatch, [Attempt(2, KILLED), Attempt(4, KILLED), Attempt(10)], max_failures=0)


def test_failures_without_a_new_checkpoint_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^stage si: rank 0: the worker was killed"):
        train(monkeypatch, [Attempt(0, KILLED)], max_failures=0)
    with pytest.raises(UserError, match=r"^stage si: rank 0: the worker was killed"):
        train(monkeypatch, [Attempt(2, KILLED), *[Attempt(2, KILLED)] * 3], max_failures=2)


def test_a_permanent_failure_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^stage si: rank 0: no space left"):
        train(monkeypatch, [Attempt(2, PERMANENT)], max_failures=3)


@pytest.fixture(scope="module")
def private_ray() -> Iterator[None]:
    with connect(ClusterConfig()):
        yield


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_placement_groups_of_an_attempt_that_ended_are_removed() -> None:
    """As Ray Train leaves them when it cannot shut its workers down."""

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self) -> None:
            ray.get(placement_group([{"CPU": 1}]).ready())

    controller = Controller.remote()
    ray.get(controller.reserve.remote())
    ray.kill(controller)  # pyright: ignore[reportArgumentType]
    assert [group["state"] for group in placement_group_table().values()] == ["CREATED"]
    workers.remove_placement_groups()
    assert [group["state"] for group in placement_group_table().values()] == ["REMOVED"]


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_a_wait_for_resources_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    cluster, said = ClusterConfig(workers=3, min_workers=2, cpus_per_worker=500, gpus_per_worker=1), ""
    with reported_wait("si", cluster, first=0.0, poll=0.1):
        while not said:
            time.sleep(0.1)
            said = capsys.readouterr().out
    needed, free = said.split("; ")
    assert needed == "si       waits for 2 workers with 500 CPU and 1 GPU each"
    assert re.fullmatch(r"free in the cluster: [\d.]+ CPU and \d+ GPU\n", free)
