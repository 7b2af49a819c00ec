"""The nodes that Ray counts."""

from __future__ import annotations

import json
import urllib.request

from lladav.cluster import Head

SHORT_START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""Ray Train waits this long, not 60 s, to place workers on a node that is gone and that Ray still counts."""


def nodes(head: Head) -> int:
    """Number of nodes that Ray counts as alive; it counts a killed node for some seconds more."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{head.dashboard}/nodes?view=summary", timeout=10) as reply:
        summary = json.load(reply)["data"]["summary"]
    return sum(each["raylet"].get("state") == "ALIVE" for each in summary)
