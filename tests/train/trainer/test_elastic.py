"""Nodes are taken away and come back: the run continues with those that are left, and no loss changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from lladav.cluster import local_head
from tests.ray_nodes import node
from tests.train.nodes import IMPATIENT, nodes
from tests.train.trainings import Trainings, train_workers, wait_for

BATCH = 4
ENDLESS = 1000
"""Steps: more than are trained, however fast. Each run is killed once it has trained what is compared."""
SETTINGS = (f"stage.global_batch={BATCH}", f"train.max_steps={ENDLESS}", "train.warmup_ratio=0")
ELASTIC = (
    *("cluster.workers=2", "cluster.min_workers=1", "cluster.resize_seconds=1"),
    *("train.micro_batch=1", "train.checkpoint_every=1"),
)
ALONE = (f"train.micro_batch={BATCH}", f"train.checkpoint_every={ENDLESS}")

QUICK = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}
"""For Ray to notice in 5 s, not 15, that a node is gone."""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_node_is_taken_away_and_comes_back_and_no_loss_changes(root: Path, tmp_path: Path) -> None:
    trainings = Trainings(root, tmp_path, *SETTINGS)
    train_elastically(trainings)
    elastic = trainings.losses("elastic")
    with trainings.begun("alone", *ALONE) as process:
        enough = len(elastic)
        trainings.wait_for(lambda: len(trainings.losses("alone")) >= enough, "its steps", "alone", process)
    alone = trainings.losses("alone")
    assert elastic == pytest.approx({step: alone[step] for step in elastic}, rel=1e-4)


def train_elastically(trainings: Trainings) -> None:
    """Train ``elastic`` with two workers, with one when its node is killed, and with two on another node."""
    run = trainings.run("elastic")

    def have_saved(*workers: int) -> Callable[[], bool]:
        """Whether so many workers saved checkpoints, one group after the other."""
        return lambda: [n for n, _ in groupby(run.checkpoints(), lambda each: each.workers)] == [*workers]

    with local_head(cpus=1, variables=QUICK) as head, ExitStack() as later:
        environment = {**head.environment, "RAY_ADDRESS": head.address, **IMPATIENT}
        with node(head):
            wait_for(lambda: nodes(head) == 2, "the arrival of the first node")
            begun = trainings.begun("elastic", *ELASTIC, environment=environment)
            process = later.enter_context(begun)
            trainings.wait_for(have_saved(2), "a checkpoint of two workers", "elastic", process)
        trainings.wait_for(have_saved(2, 1), "a checkpoint of one worker", "elastic", process)
        later.enter_context(node(head))
        resized = have_saved(2, 1, 2)
        trainings.wait_for(lambda: slowed_until(resized), "the second resize", "elastic", process)


def slowed_until(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds; if not, let a single worker work a tenth of the next second.

    Ray Train looks for new nodes every 20 s only: the steps until then are compared, too.
    """
    with suppress(psutil.NoSuchProcess, ValueError):
        (worker,) = train_workers(psutil.Process())
        worker.suspend()
        time.sleep(0.9)
        worker.resume()
        time.sleep(0.1)
    return condition()
