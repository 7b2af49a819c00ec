"""Nodes that join a Ray and are taken away from it: processes of this machine."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from lladav.cluster import Head

STORE_BYTES = 10**8


@contextmanager
def node(head: Head, cpus: int = 1) -> Iterator[psutil.Popen]:
    """The process of a node of the Ray; at the end it dies with all that runs on it, as a machine does."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        agent = probe.getsockname()[1]  # each node of a machine needs its own
    process = psutil.Popen(
        [
            *("python", "-m", "ray.scripts.scripts", "start", f"--address={head.address}", "--block"),
            *(f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}", "--node-ip-address=127.0.0.1"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"),
            *("--include-log-monitor=false", "--disable-usage-stats"),
        ],
        env=head.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with killed_at_the_end(process):
        yield process


@contextmanager
def killed_at_the_end(process: psutil.Popen) -> Iterator[None]:
    """Kill a process and everything below it when the block ends."""
    try:
        yield
    finally:
        kill_all(process)
        process.wait()


def kill_all(process: psutil.Process) -> None:
    """SIGKILL to a process and everything below it at once, as where a machine loses its power."""
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
