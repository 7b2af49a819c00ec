"""The nodes that Ray and Ray Train count."""

from __future__ import annotations

import json
import logging
import urllib.request

import ray

from lladav.cluster import Head
from tests.waiting import wait_for

SHORT_START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""Ray Train waits this long, not 60 s, to place workers on a node that is gone and that Ray still counts."""


def nodes(head: Head) -> int:
    """Number of nodes that Ray counts as alive; it counts a killed node for some seconds more."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{head.dashboard}/nodes?view=summary", timeout=10) as reply:
        summary = json.load(reply)["data"]["summary"]
    return sum(each["raylet"].get("state") == "ALIVE" for each in summary)


def make_known(head: Head, count: int) -> None:
    """Wait until Ray counts ``count`` nodes, and tell Ray Train, which looks for nodes only every 20 s."""
    wait_for(lambda: nodes(head) == count, f"{count} nodes", pause=0.5)
    ray.init(head.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
        ray.get(coordinator.get_reserved_resources.remote("nobody", recompute=True))
    finally:
        ray.shutdown()
