"""Nodes that join a Ray and are taken away from it: processes of this machine."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from lladav.cluster import Head
from tests.train.trainings import kill_all

STORE_BYTES = 10**8
IMPATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""How long Ray Train waits for room on a node that is gone before it is noticed; a minute by default."""


@contextmanager
def node(head: Head, cpus: int = 1) -> Iterator[psutil.Popen]:
    """The process of a node of the Ray; at the end it dies with all that runs on it, as a machine does."""
    process = psutil.Popen(
        [
            *("python", "-m", "ray.scripts.scripts", "start", f"--address={head.address}", "--block"),
            *(f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}", "--node-ip-address=127.0.0.1"),
            *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
        ],
        env=head.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_all(process)
        process.wait()


def nodes(head: Head) -> int:
    """Nodes that Ray holds for alive; one that is gone is for a while."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{head.dashboard}/nodes?view=summary", timeout=10) as reply:
        summary = json.load(reply)["data"]["summary"]
    return sum(each["raylet"].get("state") == "ALIVE" for each in summary)
