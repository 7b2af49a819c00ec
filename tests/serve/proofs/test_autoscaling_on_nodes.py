"""Replicas scale from zero to two and back, nodes start and stop with them, and no request fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from tests.serve.clusters import ConstantLoad, deployed, replica_states
from tests.serve.nodes import elastic_cluster
from tests.waiting import wait_for

pytestmark = [pytest.mark.proof, pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("takes_minutes")]
REPLICAS = 2
CLIENTS = 16
SETTINGS = {
    "engine__min_replicas": 0,
    "engine__max_replicas": REPLICAS,
    "engine__cpus": 1,
    "engine__max_rows": 2,
    "engine__max_waiting": 2,
    "engine__max_queued": CLIENTS,
    "scaling__up_seconds": 0.5,
    "scaling__down_seconds": 3.0,
    "ingress__cpus": 2,  # fills the head, so that each engine needs a node
}


def running() -> int:
    """Engine replicas that are up."""
    return replica_states().get("RUNNING", 0)


def nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def seconds_until(holds: Callable[[], bool]) -> float:
    begin = time.monotonic()
    wait_for(holds, lambda: f"{running()} engines and {nodes()} nodes", pause=0.2)
    return time.monotonic() - begin


def test_replicas_and_nodes_follow_the_load_and_no_request_fails(model_folder: Path, root: Path) -> None:
    """Runs in its own process: Ray kills a process that was connected to another cluster before."""
    paths = os.pathsep.join((str(root), str(root / "platform")))
    done = subprocess.run(
        [sys.executable, __file__, str(model_folder)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)


def scale_up_and_down(model_folder: Path) -> None:
    with (
        elastic_cluster(workers=REPLICAS) as (address, folder),
        deployed(address, folder, model_folder, **SETTINGS) as served,
    ):
        assert (running(), nodes()) == (0, 1)
        with ConstantLoad(served.address, CLIENTS, given={"max_tokens": 32, "ignore_eos": True}) as load:
            up = seconds_until(lambda: running() == REPLICAS)
            assert nodes() == 1 + REPLICAS
            load.wait_for(CLIENTS)
        assert [outcome.error for outcome in load.outcomes if not outcome.ok] == []
        down = seconds_until(lambda: running() == 0)
        gone = seconds_until(lambda: nodes() == 1)
    times = f"up after {up:.0f} s, down {down:.0f} s and nodes gone {gone:.0f} s later"
    print(f"\n{len(load.outcomes)} requests answered; {times}")


if __name__ == "__main__":
    scale_up_and_down(Path(sys.argv[1]))
