"""Runs the trials of an experiment on Ray.

A training command is a process of this machine, the driver of an ordinary run on the cluster. A measurement
is a Ray task.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from lladav.cluster import connect
from lladav.config.schema import ClusterConfig
from lladav.errors import UserError
from train.experiments.kind import Measurement, Subject
from train.experiments.kinds import measure
from train.experiments.trainings import Training, argv

TRAIN_FOLDER = Path(__file__).resolve().parents[1]
LOGS = "logs"
ERROR = "error: "
"""Beginning of the line that a command prints for a user error."""


@contextmanager
def ray_launcher(cluster: ClusterConfig, folder: Path) -> Iterator[RayLauncher]:
    """Connect to the configured Ray, or start a private one that all trials share."""
    with connect(cluster):
        yield RayLauncher(cluster, folder / LOGS, ray.get_runtime_context().gcs_address)


class RayLauncher:
    """Runs trials on the connected Ray."""

    def __init__(self, cluster: ClusterConfig, logs: Path, address: str) -> None:
        self._cluster, self._logs, self._lock = cluster, logs, threading.Lock()
        self._environment = {**os.environ, "RAY_ADDRESS": address}
        self._processes: set[subprocess.Popen[bytes]] = set()

    @property
    def parallel(self) -> int:
        """As many trials as have room: the workers of one, and a CPU that reads their data."""
        return parallel_trials(self._cluster, ray.cluster_resources())

    def train(self, training: Training) -> None:
        """Run a training command on this Ray; its output goes to a file."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{training.name}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv(training, TRAIN_FOLDER), env=self._environment, stdout=output, stderr=output
            )
            with self._lock:
                self._processes.add(process)
            process.wait()
        if process.returncode:
            raise UserError(f"{_last_error(log, process.returncode)} (output in {log})")

    def measure(self, kind: str, subject: Subject) -> Measurement:
        """Measure a trial in a Ray task with the resources of a training worker."""
        cluster = self._cluster
        task = ray.remote(num_cpus=cluster.cpus_per_worker, num_gpus=min(1, cluster.gpus_per_worker))(measure)
        try:
            return ray.get(task.remote(kind, subject))
        except RayTaskError as error:
            raise UserError(
                _one_line(error.cause if isinstance(error.cause, Exception) else error)
            ) from error
        except RayError as error:
            raise UserError(_one_line(error)) from error

    def stop(self) -> None:
        """Terminate the commands; their runs resume from the last checkpoint."""
        with self._lock:
            running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.terminate()


def parallel_trials(cluster: ClusterConfig, resources: Mapping[str, float]) -> int:
    """Trials that have room in a cluster with these resources, at least one."""
    rooms = [resources.get("CPU", 0) // (cluster.workers * cluster.cpus_per_worker + 1)]
    if cluster.gpus_per_worker:
        rooms.append(resources.get("GPU", 0) // (cluster.workers * cluster.gpus_per_worker))
    return max(1, int(min(rooms)))


def _last_error(log: Path, code: int) -> str:
    """The error line of a command's output, or its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return next(reversed(errors or [line for line in lines if line.strip()]), f"ended with exit code {code}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[-300:]}"
