"""On two nodes: a rank that fails alone ends its run; a lost, a new and a drained node only resize it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from lladav.cluster import Head, local_head
from tests.ray_nodes import kill_all, node
from tests.train.nodes import SHORT_START_TIMEOUT, make_known, nodes
from tests.train.trainings import Trainings, reference_losses, train_workers
from tests.waiting import wait_for
from train.trainer.workers import TRACEBACK

pytestmark = [pytest.mark.slow, pytest.mark.ray]

BATCH, EVERY = 4, 5
ENDLESS = 400
"""Steps: more than a run gets to. The tests kill each run when they have seen enough."""
SETTINGS = (
    *(f"stage.global_batch={BATCH}", f"train.max_steps={ENDLESS}", "train.warmup_ratio=0"),
    *("cluster.workers=2", "train.micro_batch=1", f"train.checkpoint_every={EVERY}"),
)
ELASTIC = ("cluster.min_workers=1", "cluster.resize_seconds=1")
ALONE = ("cluster.workers=1", f"train.micro_batch={BATCH}")
FILE_LIMIT = 2**20
"""Bytes: a shard of the optimizer's state is larger."""

QUICK = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}
"""Ray notices after 5 s instead of 15 s that a node is gone."""


class SecondNode:
    """The node beside the head; tests take it away and ask for a new one."""

    def __init__(self, head: Head, stack: ExitStack) -> None:
        self.head, self._stack = head, stack
        self._process: psutil.Popen | None = None

    def running(self) -> psutil.Popen:
        """The node's process; a new node if the last one has ended."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._stack.enter_context(node(self.head))
            wait_for(lambda: nodes(self.head) >= 2, "the start of the node", pause=0.5)
        return self._process


@pytest.fixture(scope="module")
def ray_head() -> Iterator[Head]:
    with local_head(cpus=1, variables=QUICK) as head:
        yield head


@pytest.fixture(scope="module")
def second(ray_head: Head) -> Iterator[SecondNode]:
    with ExitStack() as stack:
        yield SecondNode(ray_head, stack)


@pytest.fixture(scope="module")
def trainings(root: Path, ray_head: Head, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    environment = {**ray_head.environment, "RAY_ADDRESS": ray_head.address, **SHORT_START_TIMEOUT}
    return Trainings(root, tmp_path_factory.mktemp("elastic"), *SETTINGS, environment=environment)


@pytest.mark.proof
@pytest.mark.usefixtures("takes_minutes")
def test_one_failing_rank_ends_the_run(trainings: Trainings, second: SecondNode) -> None:
    """One of two workers fails; the run ends and does not continue with the other one."""
    second.running()
    with trainings.begun("limited") as process:
        wait_for(lambda: bool(trainings.losses("limited")), "the first step", pause=0.2)
        ends_when_a_worker_fails(trainings, "limited", process)
    assert "resumes after" not in trainings.output("limited").read_text()


def ends_when_a_worker_fails(trainings: Trainings, run: str, process: psutil.Popen) -> None:
    """A worker may no longer write its shard: the last line names it, and nothing is retried."""
    output = trainings.output(run).read_text()
    worker = train_workers(psutil.Process())[0]
    worker.rlimit(psutil.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    wait_for(lambda: process.poll() is not None, "the end of the run")
    assert process.wait() == 2
    since = trainings.output(run).read_text().removeprefix(output)
    last = since.splitlines()[-1]
    assert last.startswith("error: stage si: rank ")
    assert "safetensors: File too large; free some space or set train.storage" in last
    assert "resumes after" not in since
    assert "OSError" in (trainings.run(run).path / TRACEBACK).read_text()


@pytest.mark.proof
def test_a_lost_a_new_and_a_drained_node_change_no_loss(
    trainings: Trainings, second: SecondNode, full: bool
) -> None:
    """The short form only drains a node. In the end a worker fails, so that nothing is left to resize."""
    second.running()
    with trainings.begun("elastic", *ELASTIC) as process:
        if full:
            is_resized(trainings, second, process)
        else:
            run = trainings.run("elastic")
            trainings.wait_for(lambda: bool(run.checkpoints()), "a checkpoint", "elastic", process)
        is_drained(trainings, second, process)
        ends_when_a_worker_fails(trainings, "elastic", process)
    losses = trainings.losses("elastic")
    reference = reference_losses(trainings.overrides("reference", *ALONE), len(losses))
    assert losses == pytest.approx(reference, rel=1e-4)


def is_resized(trainings: Trainings, second: SecondNode, process: psutil.Popen) -> None:
    """Two workers train, then one when its node is killed, then two again on a new node."""
    run = trainings.run("elastic")

    def have_saved(*workers: int) -> Callable[[], bool]:
        """Whether groups of these sizes saved checkpoints, one group after the other."""
        return lambda: [n for n, _ in groupby(run.checkpoints(), lambda each: each.workers)] == [*workers]

    trainings.wait_for(have_saved(2), "a checkpoint of two workers", "elastic", process)
    kill_all(second.running())
    make_known(second.head, 1)
    trainings.wait_for(have_saved(2, 1), "a checkpoint of one worker", "elastic", process)
    with suspended():
        second.running()
        make_known(second.head, 2)
    trainings.wait_for(have_saved(2, 1, 2), "a checkpoint of two workers", "elastic", process)


def is_drained(trainings: Trainings, second: SecondNode, process: psutil.Popen) -> None:
    """The second node gets SIGTERM: the workers save the current step, and one continues from it."""
    second.running().terminate()
    output, said = trainings.output("elastic"), r"resumes after step (\d+): a node is about to be taken away"
    trainings.wait_for(lambda: bool(re.search(said, output.read_text())), "the restart", "elastic", process)
    done = max(trainings.losses("elastic"))
    assert re.findall(said, output.read_text()) == [str(done)]
    assert (done, 2) in [(each.step, each.workers) for each in trainings.run("elastic").checkpoints()]
    continued = "a step after the restart"
    trainings.wait_for(lambda: max(trainings.losses("elastic")) > done, continued, "elastic", process)
    only_worker()


def only_worker() -> psutil.Process:
    """The worker that trains alone, as soon as those of the group before it have ended."""

    def alone() -> psutil.Process | None:
        workers = train_workers(psutil.Process())
        return workers[0] if len(workers) == 1 else None

    return wait_for(alone, "the end of the other workers", pause=0.2)


@contextmanager
def suspended() -> Iterator[None]:
    """Stop the only worker: the reference would have to repeat its steps."""
    worker = only_worker()
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()
