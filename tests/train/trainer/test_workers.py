"""What Ray Train's workers do where one of them fails alone, and where a node is about to be taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lladav.cluster import Head, local_head
from tests.ray_nodes import node
from tests.train.nodes import IMPATIENT, nodes
from tests.train.trainings import Trainings, train_workers, wait_for
from train.trainer.workers import TRACEBACK

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

ENDLESS = 1000
"""Steps: more than are trained, however fast."""
TWO_WORKERS = (
    *("cluster.workers=2", "train.micro_batch=1", "stage.global_batch=4"),
    f"train.max_steps={ENDLESS}",
)
FILE_LIMIT = 2**20
"""Bytes: a shard of the optimizer's state has more."""


@contextmanager
def two_nodes() -> Iterator[tuple[Head, psutil.Popen]]:
    """A Ray of two nodes with a CPU each; the second one's process."""
    with local_head(cpus=1) as head, node(head) as second:
        wait_for(lambda: nodes(head) == 2, "the start of the node")
        yield head, second


@pytest.fixture(scope="module")
def trainings(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(root, tmp_path_factory.mktemp("workers"), *TWO_WORKERS)


def test_one_failing_rank_ends_the_run_and_one_drained_node_only_restarts_it(
    trainings: Trainings,
) -> None:
    with two_nodes() as (head, second):
        environment = {**head.environment, "RAY_ADDRESS": head.address, **IMPATIENT}
        fails_alone(trainings, environment)
        is_drained(trainings, environment, second)


def fails_alone(trainings: Trainings, environment: dict[str, str]) -> None:
    """One worker may no longer write its shard: its line is the run's, and no second attempt is made."""
    settings = ("train.checkpoint_every=10",)
    with trainings.begun("limited", *settings, environment=environment) as process:
        wait_for(lambda: bool(trainings.losses("limited")), "the first step")
        worker = train_workers(psutil.Process())[0]
        worker.rlimit(psutil.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
        wait_for(lambda: process.poll() is not None, "the end of the run")
        assert process.wait() == 2
    output = trainings.output("limited").read_text()
    last = output.splitlines()[-1]
    assert last.startswith("error: stage si: rank ")
    assert "safetensors: File too large; free some space or set train.storage" in last
    assert "resumes after" not in output
    assert "OSError" in (trainings.run("limited").place / TRACEBACK).read_text()


def is_drained(trainings: Trainings, environment: dict[str, str], second: psutil.Popen) -> None:
    """A node gets SIGTERM: the state of that moment is saved, and the other node continues from it."""
    settings = (f"train.checkpoint_every={ENDLESS}", "cluster.min_workers=1")
    with trainings.begun("drained", *settings, environment=environment) as process:
        wait_for(lambda: bool(trainings.losses("drained")), "the first step")
        second.terminate()
        output = trainings.output("drained")
        trainings.wait_for(lambda: "resumes after" in output.read_text(), "the restart", "drained", process)
        done = max(trainings.losses("drained"))
        continued = "a step after the restart"
        trainings.wait_for(
            lambda: max(trainings.losses("drained"), default=0) > done, continued, "drained", process
        )
        assert len(train_workers(psutil.Process())) == 1
    assert [(each.step, each.workers) for each in trainings.run("drained").checkpoints()] == [(done, 2)]
    assert f"resumes after step {done}: a node is about to be taken away" in output.read_text()
