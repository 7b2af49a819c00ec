"""A node is drained and dies under load, as a pod does that Kubernetes deletes, and no request fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lladav.cluster import Head, local_head
from serve.drain import Node
from tests.serve.clusters import ConstantLoad, deployed
from tests.serve.nodes import kill, worker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
SETTINGS = {
    "engine__cpus": 1.5,  # two replicas fill a worker node, and none fits on the head
    "ingress__cpus": 1.5,
    "engine__min_replicas": 2,
    "engine__max_replicas": 2,
    "ingress__replicas": 2,
    "engine__drain_seconds": 30,
}
ANSWERS = {"max_tokens": 128, "ignore_eos": True}
"""So long that some are under way at any moment."""


@pytest.fixture
def head() -> Iterator[Head]:
    with local_head(cpus=1) as running:
        yield running


def drained(node: Node, head: Head, root: Path) -> str:
    """What the command says in the environment of a node, as a preStop hook runs it."""
    command = [sys.executable, "-m", "serve.drain", "--seconds", "200", "--node-id", node.id]
    done = subprocess.run(
        command, cwd=root, env=head.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_is_drained_and_dies(head: Head, model_folder: Path, root: Path) -> None:
    with (
        worker(head, cpus=3) as leaving,
        worker(head, cpus=3) as staying,
        deployed(head.address, head.folder, model_folder, **SETTINGS) as served,
        worker(head, cpus=3) as coming,
        ConstantLoad(served.address, pause=0.5, given=ANSWERS) as load,
    ):
        assert [len(node.serving()) for node in (leaving, staying, coming)] == [2, 2, 0]
        load.wait_for(8)
        begin, before = time.monotonic(), len(load.outcomes)
        said = drained(leaving, head, root)
        seconds, meanwhile = time.monotonic() - begin, len(load.outcomes) - before
        assert [len(node.serving()) for node in (leaving, staying, coming)] == [0, 2, 2]
        assert said.endswith("s: nothing serves here\n")
        kill(leaving)
        load.wait_for(12)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    print(f"\n{said}drained in {seconds:.0f} s; {meanwhile} requests answered meanwhile, none failed")
