"""Move Ray Serve's replicas off this machine's Ray node before it ends, so that no request fails.

    python -m serve.drain --seconds 430        # a worker pod's preStop hook

Ray Serve ends a drained node's replicas in this order. Ray is told a deadline, ``--seconds`` from now. From
then on nothing new is placed on the node, and each of its replicas that runs goes on answering until a
replacement runs elsewhere; then it takes no more requests and has ``engine.drain_seconds`` (Serve's
``graceful_shutdown_timeout_s``) for those that it has, before it is killed. A replica is stopped in any case
``engine.drain_seconds`` before the deadline, replacement or not: with ``--seconds`` no longer than
``engine.drain_seconds`` at once. So ``--seconds`` covers a replacement's start and ``engine.drain_seconds``
after it; ``grace_seconds`` adds up what is needed.

A training pod's hook is the same command: the run saves a checkpoint as soon as it knows of the drain, and
leaves the node (``train/trainer/preemption.py``).

Without this, Ray drains a node itself once ``ray start --block`` gets SIGTERM, with a deadline in 30 s
(``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S``): too soon for a large model to be up elsewhere. The Ray of a node
that was drained ends by itself when nothing runs on it any more, and with it the container; so a node that is
drained by hand is of no use until it is started anew.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "platform")]

import psutil

from lladav.config.cli import OneLineParser, one_line_errors
from lladav.errors import UserError

if TYPE_CHECKING:
    from serve.settings import ServeSettings

SERVING = ("ray::ServeReplica:", "ray::ProxyActor", "ray::HAProxyManager", "ray::RayTrainWorker")
"""How titles of processes begin that finish first: those that requests run through (a proxy holds requests of
replicas elsewhere, too), and workers of a training run, which save a checkpoint and leave."""
POLL_SECONDS, AGAIN_SECONDS = 0.2, 5.0

SERVE_SECONDS = 10.0
"""Slack for our own start, and for Serve's controller, which looks around ten times a second."""
PROXY_SECONDS = 35.0
"""A proxy of a drained node stays for 30 s, for load balancers to leave it, and is looked at every 5 s."""
RAY_SECONDS = 45.0
"""Ray's own stop after the hook, where the hook's time did not suffice: it drains for up to 30 s more, and
then gives each of its processes a second to end before it is killed."""


class Grace(NamedTuple):
    """What a worker pod's manifest needs, in whole seconds."""

    hook: int
    """``--seconds`` of the preStop hook."""
    pod: int
    """``terminationGracePeriodSeconds``, which begins with the hook."""


def grace_seconds(settings: ServeSettings, start_seconds: float) -> Grace:
    """How long a worker pod may take to end.

    ``start_seconds`` is what a replacement takes to answer: a machine, its image, and the model. The replicas
    then have ``engine.drain_seconds`` to finish. A proxy meanwhile finishes requests of any replica, and such
    a request ends after ``limits.deadline_ms`` at the latest.
    """
    replicas = start_seconds + settings.engine.drain_seconds
    proxy = PROXY_SECONDS + settings.limits.deadline_ms / 1000
    hook = math.ceil(max(replicas, proxy) + SERVE_SECONDS)
    return Grace(hook, math.ceil(hook + RAY_SECONDS))


@dataclass(frozen=True)
class Node:
    """A Ray node on this machine."""

    raylet: psutil.Process
    id: str
    gcs: str
    """host:port of Ray's control service."""
    is_head: bool

    def serving(self) -> list[psutil.Process]:
        """Its processes that requests run through; none once the node is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [each for each in self.raylet.children() if _title(each).startswith(SERVING)]
        return []


def nodes() -> list[Node]:
    """The Ray nodes of this machine; in a pod there is one."""
    named = psutil.process_iter(["name"])
    return nodes_of(process for process in named if process.info["name"] == "raylet")


def nodes_of(raylets: Iterable[psutil.Process]) -> list[Node]:
    """The nodes that the command lines of their raylets describe."""
    return [node for node in map(_node, raylets) if node is not None]


def drain(node: Node, seconds: float) -> None:
    """Drain a node; returns when no process of it serves any more, or when the seconds are over."""
    begin = time.monotonic()
    deadline = begin + seconds
    if not _asked(node, deadline):
        print("Ray has not agreed to drain the node in time", flush=True)
        return
    print(f"node {node.id} drains; {_list(node.serving())}", flush=True)
    while (left := node.serving()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    print(f"after {time.monotonic() - begin:.0f} s: {_list(left)}", flush=True)


def _asked(node: Node, deadline: float) -> bool:
    """Ask Ray to drain the node, again where its control service does not answer, which may be restarting."""
    while (seconds := deadline - time.monotonic()) > 0 and node.raylet.is_running():
        why_not = _ask(node, seconds)
        if why_not is None:
            return True
        print(f"Ray did not take it: {why_not}", flush=True)
        time.sleep(min(AGAIN_SECONDS, seconds))
    return False


def _ask(node: Node, seconds: float) -> str | None:
    """Why Ray did not agree. Its command is used in a process of its own, which Ray may end when it fails."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
        *(f"--address={node.gcs}", f"--node-id={node.id}"),
        *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is to end"),
        f"--deadline-remaining-seconds={math.ceil(seconds)}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer from {node.gcs}"
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]


def _node(raylet: psutil.Process) -> Node | None:
    """None for a raylet that ends meanwhile."""
    try:
        parts = [argument.partition("=") for argument in raylet.cmdline()]
    except psutil.Error:
        return None
    told = {name: value for name, _, value in parts}
    if "--node_id" not in told or "--gcs-address" not in told:
        return None
    return Node(raylet, told["--node_id"], told["--gcs-address"], "--head" in told)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).rstrip()  # Ray pads it to the room that its arguments had
    except psutil.Error:
        return ""


def _list(processes: Sequence[psutil.Process]) -> str:
    titles = sorted(filter(None, map(_title, processes)))
    return f"serving: {', '.join(titles)}" if titles else "nothing serves here"


def _chosen(node_id: str | None) -> Node | None:
    """The node that is meant; none where it is gone. Raises ``UserError`` where it is not told which."""
    found = [node for node in nodes() if node_id in (None, node.id)]
    if len(found) > 1:
        ids = ", ".join(sorted(node.id for node in found))
        raise UserError(f"{len(found)} Ray nodes are on this machine; choose one by --node-id: {ids}")
    return found[0] if found else None


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of whole seconds, as in 430")
    return int(text)


def main(arguments: Sequence[str]) -> None:
    """Drain the node; exit code 0 whatever became of it, 2 for arguments that cannot be."""
    parser = OneLineParser(prog="python -m serve.drain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", required=True, type=_seconds, help="until the node ends")
    parser.add_argument("--node-id", help="which of several Ray nodes on this machine")
    with one_line_errors():
        options = parser.parse_args(arguments)
        node = _chosen(options.node_id)
        if node is None:
            print("no Ray node runs here any more; nothing to drain")
        elif node.is_head:
            print("this is Ray's head, where Serve's controller and a proxy stay; nothing to drain")
        else:
            drain(node, options.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
