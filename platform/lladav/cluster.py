"""Connecting to Ray, and starting a private Ray. The only library file that imports ray.

A private Ray has its own folder and ports. Stopping it stops only its own processes, which have that folder
in their environment; other Ray instances on the machine are not affected. It requires no token, so the
machine's network must be trusted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import ray

from lladav.config.schema import ClusterConfig
from lladav.errors import UserError

_SOURCES = Path(__file__).resolve().parents[1]
CHECKOUT = _SOURCES.parent if _SOURCES.name == "platform" else None
"""The folder of the checkout that contains this file; None if lladav is installed as a wheel."""

SHORT_FOLDER = "/tmp"
"""Parent of Ray's folder: sockets there have paths of at most 107 bytes, and ``TMPDIR`` may be too long."""

STORE_FRACTION, MIN_STORE_BYTES, MAX_STORE_BYTES = 0.1, 128 * 2**20, 8 * 2**30
"""Object store of a private Ray: a fraction of the memory, within these bounds."""

PRIVATE = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_worker_niceness": "0",
}
"""Environment of a private Ray. Workers that start before any task would lack the runtime environment of Ray
Train's tasks, so that most of them would stay idle. Ray would end idle workers beyond one per CPU after a
second; a task that comes later would start a new one, which takes two seconds of CPU. And Ray's workers would
run at niceness 15: beside other busy processes, training and requests would get almost no time."""

SERVE_PREFIX = "RAY_SERVE_"
"""Prefix of Ray Serve's environment variables."""

READY_SECONDS, STOP_SECONDS, POLL_SECONDS = 120, 5, 0.2

PORT_OPTIONS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
    "--node-manager-port",
    "--object-manager-port",
)


@dataclass(frozen=True)
class Head:
    """A running private Ray and its addresses."""

    address: str
    """host:port for ``ray.init``."""
    dashboard: str
    """http:// address for ``ray job submit --address`` and for a browser."""
    folder: Path
    """Ray's sessions and logs; removed when the head stops."""
    environment: dict[str, str]
    """Environment for commands that talk to this Ray."""


@contextlib.contextmanager
def connect(cluster: ClusterConfig, gpu_setting: str = "cluster.gpus_per_worker") -> Iterator[None]:
    """Connect to Ray: to ``cluster.address``, the Ray that runs this job, or a new private Ray.

    An existing connection is used and kept. A private Ray stops when the context exits. The output of workers
    stays in Ray's logs; commands report their own progress. Raises ``UserError``, which names
    ``gpu_setting``, if a private Ray has too few GPUs.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        options = {"address": address, "runtime_env": runtime_env()} if address else _own_ray(cluster, stack)
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
        stack.callback(ray.shutdown)
        if not address:
            check_gpus((cluster.min_workers or cluster.workers) * cluster.gpus_per_worker, gpu_setting)
        yield


def check_gpus(needed: float, setting: str) -> None:
    """Raise ``UserError`` if the connected Ray has fewer GPUs; for a private Ray, which cannot add nodes."""
    found = ray.cluster_resources().get("GPU", 0)
    if found < needed:
        given = f"{needed:g} GPUs are needed and this machine has {found:g}"
        raise UserError(f"{setting}: {given}; use fewer, or a Ray cluster")


def runtime_env() -> dict[str, Any]:
    """Return the runtime environment in which workers find a checkout's packages; a wheel needs none.

    A private Ray needs none either: its processes inherit the path of the packages. It should not get one,
    because Ray starts Python twice for each worker with a runtime environment.
    """
    settings = _quoted_python()
    if CHECKOUT:
        # The relative "platform" comes first: Ray starts workers inside an uploaded folder, and the upload
        # must take precedence over a copy in the container image.
        settings["env_vars"] = {"PYTHONPATH": f"platform:{_SOURCES}:{CHECKOUT}"}
    return settings


def _quoted_python() -> dict[str, Any]:
    """Ray starts workers through a shell and does not quote the interpreter."""
    python = shlex.quote(sys.executable)
    return {"py_executable": python} if python != sys.executable else {}


@contextlib.contextmanager
def local_head(
    cpus: int | None = None,
    object_store_bytes: int | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Head]:
    """Run a private Ray head with a job server until the context exits.

    Jobs start in the folder of the checkout, or in the current folder if lladav is installed. ``variables``
    are added to the environment of the head and its processes. Raises ``RuntimeError`` with the end of Ray's
    output if the head does not start.
    """
    with _own_folder() as folder, _interrupted_by_termination():
        python = plain_python(folder)
        ports, environment = _free_ports(len(PORT_OPTIONS)), {**_environment(folder, python), **variables}
        command = [
            str(python),
            *_head_options(folder, ports, cpus, object_store_bytes or _store_bytes()),
        ]
        process = _start(command, environment, folder / "start.log")
        try:
            head = _head(folder, ports, environment)
            _wait_until_ready(process, head)
            yield head
        finally:
            _end(process, folder)


def plain_python(folder: Path) -> Path:
    """Return a path of this Python that needs no quotes: Ray does not quote its workers' interpreter."""
    python = Path(sys.executable)
    if shlex.quote(str(python)) == str(python):
        return python
    (folder / "python").symlink_to(python.parents[1])
    return folder / "python" / python.parent.name / python.name


def _head_options(folder: Path, ports: list[int], cpus: int | None, store_bytes: int) -> list[str]:
    chosen = [f"{option}={port}" for option, port in zip(PORT_OPTIONS, ports, strict=True)]
    return [
        *("-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(
            "--log-color=false",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            "--include-dashboard=true",
            "--include-log-monitor=false",  # it would send the output of workers to drivers
            "--no-monitor",  # of the autoscaler: there are no nodes to start
        ),
        *(f"--temp-dir={folder}", f"--num-cpus={cpus or _cores()}", f"--object-store-memory={store_bytes}"),
        *chosen,
    ]


def _head(folder: Path, ports: list[int], environment: dict[str, str]) -> Head:
    gcs, dashboard, *_ = ports
    url = f"http://127.0.0.1:{dashboard}"
    return Head(f"127.0.0.1:{gcs}", url, folder, {**environment, "RAY_API_SERVER_ADDRESS": url})


def _environment(folder: Path, python: Path) -> dict[str, str]:
    """This process's environment without variables of another Ray; those of Ray Serve are kept.

    ``RAY_TMPDIR`` identifies the processes of this Ray.
    """
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k.startswith(SERVE_PREFIX)
    }
    return inherited | {
        **_python_path(),
        "PATH": _path(python),
        "RAY_TMPDIR": str(folder),
        **PRIVATE,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=environment, cwd=CHECKOUT, stdout=output, stderr=output, start_new_session=True
        )


def _wait_until_ready(process: subprocess.Popen[bytes], head: Head) -> None:
    """Wait until the node is alive: the dashboard responds long before jobs can start."""
    deadline = time.monotonic() + READY_SECONDS
    while not _has_node(head.dashboard):
        if process.poll() is not None or time.monotonic() > deadline:
            end = " ".join((head.folder / "start.log").read_text(errors="replace").split())[-800:]
            how = (
                "ended while starting" if process.poll() is not None else f"is not up after {READY_SECONDS} s"
            )
            raise RuntimeError(f"the private Ray {how}: {end}")
        time.sleep(POLL_SECONDS)


def _has_node(dashboard: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{dashboard}/nodes?view=summary", timeout=5) as reply:
            nodes = json.load(reply)["data"]["summary"]
    except (OSError, ValueError, KeyError):
        return False
    return any(node["raylet"].get("state") == "ALIVE" for node in nodes)


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask the head to stop, then kill its remaining processes."""
    # Some processes do not show their environment: Ray's dashboard agent overwrites it with its title, and
    # spins for a minute after its head has gone. They are found as descendants.
    descendants = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    _kill(descendants)
    deadline = time.monotonic() + STOP_SECONDS
    while (left := _processes_of(folder)) and time.monotonic() < deadline:
        _kill(left)
        time.sleep(POLL_SECONDS)
    process.wait()


def _kill(processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def _processes_of(folder: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _ray_folder(p) == str(folder)]


def _ray_folder(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RAY_TMPDIR")
    except (psutil.Error, OSError):
        return None


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lladav-", dir=SHORT_FOLDER))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception in the context, so that its processes are stopped."""

    def exit_on_signal(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = {number: signal.signal(number, exit_on_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
    except ValueError:  # only the main thread can set handlers
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _own_ray(cluster: ClusterConfig, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Options of ``ray.init`` for a private Ray in child processes, which stop with this process."""
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    stack.enter_context(_exported({**_python_path(), "PATH": _path(Path(sys.executable))}))
    needed = math.ceil(cluster.workers * cluster.cpus_per_worker) + 1  # one for reading data
    return {
        "address": "local",
        "runtime_env": _quoted_python(),
        "include_dashboard": False,
        "num_cpus": max(_cores(), needed),
        "object_store_memory": _store_bytes(),
        "_temp_dir": str(stack.enter_context(_own_folder())),
        "_node_ip_address": "127.0.0.1",
    }


def _path(python: Path) -> str:
    """``PATH`` with Python's folder in front: jobs start Python by name, and DeepSpeed starts ninja."""
    return f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _python_path() -> dict[str, str]:
    """``PYTHONPATH`` with a checkout's packages in front; nothing for a wheel."""
    if not CHECKOUT:
        return {}
    folders = [str(_SOURCES), str(CHECKOUT), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, folders))}


@contextlib.contextmanager
def _exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which processes inherit that start in the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _store_bytes() -> int:
    return round(min(MAX_STORE_BYTES, max(MIN_STORE_BYTES, STORE_FRACTION * psutil.virtual_memory().total)))
