"""Nodes are taken away and come back: the run goes on with those that are there, and no loss changes."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from lladav.cluster import local_head
from tests.train.nodes import node, nodes
from tests.train.trainings import Trainings, train_workers, wait_for

STEPS, EVERY, BATCH = 12, 2, 32
SETTINGS = (f"stage.global_batch={BATCH}", f"train.max_steps={STEPS}")
ELASTIC = (
    *("cluster.workers=2", "cluster.min_workers=1", "cluster.resize_seconds=1"),
    *("train.micro_batch=1", f"train.checkpoint_every={EVERY}"),
)

IMPATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""How long Ray waits for room on a node that it does not know to be gone; a minute unless told."""


def slow_down(worker: psutil.Process) -> None:
    """Let it work a tenth of the time until Ray ends it: 20 s may pass before Ray sees a new node."""
    with suppress(psutil.NoSuchProcess):
        while worker.is_running():
            worker.suspend()
            time.sleep(0.9)
            worker.resume()
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_node_is_taken_away_and_comes_back_and_no_loss_changes(root: Path, tmp_path: Path) -> None:
    trainings = Trainings(root, tmp_path, *SETTINGS)
    trainings.finish("alone", f"train.micro_batch={BATCH}", f"train.checkpoint_every={STEPS}")
    run = trainings.run("elastic")

    def workers() -> list[int]:
        """How many wrote the checkpoints, one after the other."""
        return [count for count, _ in groupby(run.checkpoints(), lambda checkpoint: checkpoint.workers)]

    with local_head(cpus=1) as head, ExitStack() as later:
        environment = {**head.environment, "RAY_ADDRESS": head.address, **IMPATIENT}
        with node(head):
            wait_for(lambda: nodes(head) == 2, "the coming of the node")
            process = later.enter_context(trainings.begun("elastic", *ELASTIC, environment=environment))
            wait_for(lambda: workers() == [2], "a checkpoint of two workers")
        wait_for(lambda: workers() == [2, 1], "a checkpoint of the worker that is left")
        later.enter_context(node(head))
        (worker,) = train_workers(psutil.Process())
        slow_down(worker)
        wait_for(lambda: process.poll() is not None, "the end of the run")
        assert process.wait() == 0
    assert workers() == [2, 1, 2]
    assert trainings.losses("elastic") == pytest.approx(trainings.losses("alone"), rel=1e-4)
