"""What Ray knows of its nodes."""

from __future__ import annotations

import json
import urllib.request

from lladav.cluster import Head

IMPATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""How long Ray Train waits for room on a node that is gone before it is noticed; a minute by default."""


def nodes(head: Head) -> int:
    """Nodes that Ray holds for alive; one that is gone is for a while."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{head.dashboard}/nodes?view=summary", timeout=10) as reply:
        summary = json.load(reply)["data"]["summary"]
    return sum(each["raylet"].get("state") == "ALIVE" for each in summary)
