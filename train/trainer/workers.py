"""Starts the worker group of a run with Ray Train and decides which failures are retried.

Ray Train's own ``max_failures`` counts failures over the whole life of a run and retries user errors too. So
the driver counts here: only failures that a retry can fix, and only those since the last checkpoint.
Preempted nodes do not count.
"""

from __future__ import annotations

import os
from typing import Any, cast

import ray
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from data.manifest.manifest import Manifest
from data.pipeline.train_data import RankedData
from lladav.config.schema import ClusterConfig
from lladav.errors import UserError
from lladav.storage import local_path, location, write_durably
from train.checkpoints.run_folder import Run
from train.trainer.failures import Failure, failure_of
from train.trainer.job import DATASET, Job, TrainOutcome
from train.trainer.progress import report
from train.trainer.resource_wait import placement_groups, reported_wait

TRACEBACK = "failure.txt"
"""File in the run's folder with Ray Train's full report of the last failure."""

PREEMPTION_POLL = "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"
"""Ray Train's setting for the seconds between its checks for preempted nodes."""


def train(job: Job, manifest: Manifest, run: Run) -> None:
    """Train to the last step, with restarts; raises ``UserError`` if the run has to end before."""
    os.environ.setdefault(PREEMPTION_POLL, "1")
    failures, saved = 0, run.committed_step()
    while True:
        failure = _attempt(job, manifest, run)
        if failure is None:
            return
        committed = run.committed_step()
        failures = 0 if committed > saved else failures + 1
        if not failure.retry or failures > job.config.cluster.max_failures:
            raise UserError(f"stage {job.config.stage.name}: {failure.line}")
        saved = committed
        report(f"{job.config.stage.name:<8} resumes after step {committed}: {failure.line}")


def _attempt(job: Job, manifest: Manifest, run: Run) -> Failure | None:
    """Run the worker group once; return why it ended early, None if the run is finished."""
    cluster = job.config.cluster
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=scaling(cluster),
        run_config=RunConfig(name=run.name, **ray_storage(run), failure_config=FailureConfig(max_failures=0)),
        datasets={DATASET: RankedData.placeholder},
        dataset_config=RankedData(job.config, manifest, run.committed_step),
    )
    try:
        with reported_wait(job.config.stage.name, cluster):
            outcome = cast("TrainOutcome", trainer.fit().return_value)
    except TrainingFailedError as error:
        write_durably(run.path / TRACEBACK, f"{error}\n")
        remove_placement_groups()
        failure = failure_of(error)
        more = f"(traceback in {run.path / TRACEBACK}); the same command resumes from the last checkpoint"
        return Failure(f"{failure.line} {more}", failure.retry)
    if outcome.failure:
        return Failure(outcome.failure, retry=False)
    return Failure("a node is about to be taken away") if outcome.preempted else None


def train_worker(settings: dict[str, Job]) -> TrainOutcome:
    """Entry point of a Ray Train worker: train ``settings["job"]``."""
    from train.trainer.loop import train_rank  # takes ten seconds to import; only workers need it

    return train_rank(settings["job"])


def remove_placement_groups() -> None:
    """Remove the placement groups that processes of this Ray job created.

    Ray Train leaves the group of its workers behind when it cannot shut them down, as after Ray's memory
    monitor killed several processes at once. The group would keep its CPUs until the job ends, and the data
    tasks of the next attempt would wait for them indefinitely.
    """
    for group_id, state in placement_groups().items():
        if state != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group_id)))


def ray_storage(run: Run) -> dict[str, Any]:
    """Ray Train's storage options: it keeps its own files in the run's folder."""
    storage = location(run.storage)
    if local := local_path(storage):
        return {"storage_path": str(local)}
    return {"storage_path": storage.path, "storage_filesystem": PyFileSystem(FSSpecHandler(storage.fs))}


def scaling(cluster: ClusterConfig) -> ScalingConfig:
    """The number of workers, a range for elastic runs, and the resources of each."""
    fewest, most, gpus = cluster.min_workers, cluster.workers, cluster.gpus_per_worker
    return ScalingConfig(
        num_workers=most if fewest is None else (fewest, most),
        elastic_resize_monitor_interval_s=cluster.resize_seconds,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
    )
