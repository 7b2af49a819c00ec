"""Ray clusters whose nodes start and stop, by Ray's autoscaler or by a test, all on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address

from lladav.cluster import Head, plain_python
from tests.ray_nodes import STORE_BYTES, node
from tests.waiting import wait_for

HEAD_CPUS, WORKER_CPUS = 2, 1
SERVING = ("ray::ServeReplica:", "ray::ProxyActor")


@contextlib.contextmanager
def elastic_cluster(workers: int) -> Iterator[tuple[str, Path]]:
    """A Ray with an autoscaler that starts up to ``workers`` nodes of one CPU; yields its address and folder.

    All its nodes end with the block.
    """
    folder = Path(tempfile.mkdtemp(prefix="lladav-", dir="/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(f"{get_node_ip_address()}:{port}", workers)))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**inherited, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)}
    process = subprocess.Popen(
        [
            *(str(plain_python(folder)), "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            f"--port={port}",
            *(f"--autoscaling-config={config}", f"--num-cpus={HEAD_CPUS}", "--include-dashboard=false"),
            *(f"--object-store-memory={STORE_BYTES}", f"--temp-dir={folder}/ray", "--disable-usage-stats"),
        ],
        env={
            **environment,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(port)
        yield f"127.0.0.1:{port}", folder
    finally:
        _end(process, folder)


@contextlib.contextmanager
def worker(head: Head, cpus: int, drain_seconds: float) -> Iterator[WorkerNode]:
    """A worker node that drains for ``drain_seconds`` on SIGTERM; killed with the block."""
    variables = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_seconds)}
    with node(replace(head, environment={**head.environment, **variables}), cpus) as process:
        yield WorkerNode(process, _raylet_of(process))


@dataclass(frozen=True)
class WorkerNode:
    """A worker node of a Ray."""

    start: psutil.Popen
    """``ray start --block``, the main process of a pod."""
    raylet: psutil.Process

    def serving(self) -> int:
        """The number of Serve replicas and proxies on the node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sum(_title(each).startswith(SERVING) for each in self.raylet.children())
        return 0


def _raylet_of(process: psutil.Popen) -> psutil.Process:
    def raylets() -> list[psutil.Process]:
        return [child for child in process.children() if child.name() == "raylet"]

    return wait_for(raylets, "the start of the node")[0]


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _config(address: str, workers: int) -> dict[str, Any]:
    steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"CPU": WORKER_CPUS, "object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "elastic",
        "max_workers": workers,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": HEAD_CPUS}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": workers},
        },
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{step}_commands": [] for step in steps},
        "file_mounts_sync_continuously": False,
    }


def _wait_for(port: int) -> None:
    def accepts() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    wait_for(accepts, "the start of the head")


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill the head and all processes that it started, identified by the folder in their environment."""
    before = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(8)
    for each in [*before, *(p for p in psutil.process_iter() if _folder_of(p) == str(folder))]:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _folder_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RAY_TMPDIR") if process.pid != os.getpid() else None
    except (psutil.Error, OSError):
        return None
