"""A worker node gets SIGTERM under load, as when Kubernetes deletes its pod, and no request fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lladav.cluster import Head, local_head
from tests.serve.clusters import ConstantLoad, deployed
from tests.serve.nodes import worker

pytestmark = [
    *(pytest.mark.proof, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)),
    pytest.mark.usefixtures("takes_minutes"),
]
SETTINGS = {
    "engine__cpus": 1.5,  # two replicas fill a worker node, and none fits on the head
    "ingress__cpus": 1.5,
    "engine__min_replicas": 2,
    "engine__max_replicas": 2,
    "ingress__replicas": 2,
    "engine__drain_seconds": 30,
}
DRAIN_SECONDS = 600.0
"""Far longer than a drain takes, so that one that ends only by the deadline shows."""
ANSWERS = {"max_tokens": 128, "ignore_eos": True}
"""Long enough that some answers are in progress at any moment."""


@pytest.fixture
def head() -> Iterator[Head]:
    with local_head(cpus=1) as running:
        yield running


def test_a_node_drains_on_sigterm_and_no_request_fails(head: Head, model_folder: Path) -> None:
    with (
        worker(head, 3, DRAIN_SECONDS) as leaving,
        worker(head, 3, DRAIN_SECONDS) as staying,
        deployed(head.address, head.folder, model_folder, **SETTINGS) as served,
        worker(head, 3, DRAIN_SECONDS) as joining,
        ConstantLoad(served.address, pause=1.5, given=ANSWERS) as load,
    ):
        assert [node.serving() for node in (leaving, staying, joining)] == [2, 2, 0]
        load.wait_for(4)
        begin, before = time.monotonic(), len(load.outcomes)
        leaving.start.terminate()
        leaving.start.wait(DRAIN_SECONDS)
        seconds, meanwhile = time.monotonic() - begin, len(load.outcomes) - before
        assert seconds < DRAIN_SECONDS - SETTINGS["engine__drain_seconds"], "drained only by the deadline"
        assert [node.serving() for node in (leaving, staying, joining)] == [0, 2, 2]
        load.wait_for(8)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    print(f"\ndrained in {seconds:.0f} s; {meanwhile} requests answered meanwhile, none failed")
