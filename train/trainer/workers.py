"""The workers of a run: Ray Train around the loop, and which failures are retried.

Ray Train counts every failure of a run's whole life and retries a mistake of the user like any other, so the
count is kept here: only failures that a retry can fix, and only those since the last checkpoint.
Nodes that are taken away count for nothing.
"""

from __future__ import annotations

import os
from typing import Any, cast

from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from data.manifest.manifest import Manifest
from data.pipeline.train_data import RankedData
from lladav.config.schema import ClusterConfig
from lladav.errors import UserError
from lladav.storage import local_path, location, write_durably
from train.checkpoints.run_folder import Run
from train.trainer.failures import Failure, failure_of
from train.trainer.job import DATASET, Ended, Job
from train.trainer.progress import say

TRACEBACK = "failure.txt"
"""File in the run's folder with all that Ray Train said of the last failure."""

NOTICE_SECONDS = "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"
"""How often Ray Train asks whether a node of the run is about to be taken away."""


def train(job: Job, manifest: Manifest, run: Run) -> None:
    """Train until the last step; raises ``UserError`` where the run has to end before it."""
    os.environ.setdefault(NOTICE_SECONDS, "1")
    failures, saved = 0, run.committed_step()
    while True:
        ended = _attempt(job, manifest, run)
        if ended is None:
            return
        committed = run.committed_step()
        failures = 0 if committed > saved else failures + 1
        if not ended.retry or failures > job.config.cluster.max_failures:
            raise UserError(f"stage {job.config.stage.name}: {ended.line}")
        saved = committed
        say(f"{job.config.stage.name:<8} resumes after step {committed}: {ended.line}")


def _attempt(job: Job, manifest: Manifest, run: Run) -> Failure | None:
    """Run the workers once; why they ended early, if they did."""
    try:
        ended = cast("Ended", _trainer(job, manifest, run).fit().return_value)
    except TrainingFailedError as error:
        write_durably(run.place / TRACEBACK, f"{error}\n")
        failure = failure_of(error)
        return Failure(f"{failure.line}{_afterwards(run)}", failure.retry)
    if ended.failure:
        return Failure(ended.failure, retry=False)
    return Failure("a node is about to be taken away") if ended.preempted else None


def train_worker(settings: dict[str, Job]) -> Ended:
    """What a Ray Train worker runs: the loop of the ``job``."""
    from train.trainer.loop import work  # takes ten seconds to import; only workers need it

    return work(settings["job"])


def _afterwards(run: Run) -> str:
    return f" (traceback in {run.place / TRACEBACK}); the same command resumes from the last checkpoint"


def _trainer(job: Job, manifest: Manifest, run: Run) -> TorchTrainer:
    cluster = job.config.cluster
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=scaling(cluster),
        run_config=RunConfig(name=run.name, **ray_storage(run), failure_config=FailureConfig(max_failures=0)),
        datasets={DATASET: RankedData.placeholder},
        dataset_config=RankedData(job.config, manifest, run.committed_step),
    )


def ray_storage(run: Run) -> dict[str, Any]:
    """Ray Train's options for its own bookkeeping, which it keeps in the run's folder."""
    storage = location(run.storage)
    if local := local_path(storage):
        return {"storage_path": str(local)}
    return {"storage_path": storage.path, "storage_filesystem": PyFileSystem(FSSpecHandler(storage.fs))}


def scaling(cluster: ClusterConfig) -> ScalingConfig:
    """How many workers there are, or may be, and what each of them takes."""
    fewest, most, gpus = cluster.min_workers, cluster.workers, cluster.gpus_per_worker
    return ScalingConfig(
        num_workers=most if fewest is None else (fewest, most),
        elastic_resize_monitor_interval_s=cluster.resize_seconds,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
    )
