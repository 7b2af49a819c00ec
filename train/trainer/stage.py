"""One stage from settings to its last checkpoint: its checks, its folder and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from data.manifest.manifest import Manifest, open_manifest
from data.manifest.ray_map import ray_map
from data.pipeline.plan import BatchLayout, Plan
from lladav.cluster import connect
from lladav.config.schema import Config, WeightsConfig
from lladav.storage import absolute, local_path
from train.checkpoints.run_folder import Checkpoint, Run
from train.checkpoints.run_lock import owned
from train.trainer.job import Job
from train.trainer.preflight import check_stages, starting_weights
from train.trainer.progress import Progress, say
from train.trainer.workers import train


def run_stages(configs: Sequence[Config]) -> None:
    """Train the stages in order; those that are done are reported and left."""
    check_stages(configs)
    with connect(configs[0].cluster):
        for config in configs:
            run_stage(config)


def run_stage(config: Config) -> None:
    """Train one stage, or resume it; raises ``UserError`` where it cannot start or had to end early.

    Nothing is written to the run's folder before everything that the stage needs is checked.
    """
    run = Run.of(config)
    check_stages([config])
    latest = run.latest()
    if latest and latest.final:
        say(f"{config.stage.name:<8} done: {latest.step} steps, {latest.place}")
        return
    manifest = open_manifest(config, mapper=ray_map)
    with owned(run.place) as owner:
        run.bind(config)
        _train(config, manifest, replace(run, token=owner.token))
    say(f"{config.stage.name:<8} done: {run.checkpoint_place(Plan.of(manifest, config).steps)}")


def _train(config: Config, manifest: Manifest, run: Run) -> None:
    latest = run.latest()
    start_from = None if latest else starting_weights(config)
    steps = Plan.of(manifest, config).steps
    job = Job(with_absolute_paths(config), str(manifest.folder), steps, start_from, run.token)
    say(headline(job, len(manifest), latest))
    with Progress(local_path(run.place), config.stage.name, latest.step if latest else 0, job.total_steps):
        train(job, manifest, run)


def with_absolute_paths(config: Config) -> Config:
    """The same settings for processes that run in other folders."""

    weights = {key: place and absolute(place) for key, place in asdict(config.model.weights).items()}
    return replace(
        config,
        model=replace(
            config.model, weights=WeightsConfig(**weights), tokenizer=absolute(config.model.tokenizer)
        ),
        data=replace(config.data, root=absolute(config.data.root)),
        train=replace(config.train, storage=absolute(config.train.storage)),
    )


def headline(job: Job, samples: int, latest: Checkpoint | None) -> str:
    """What is about to happen, with the arithmetic of the global batch."""
    config, cluster = job.config, job.config.cluster
    stage, micro = config.stage, config.train.micro_batch
    slots = BatchLayout.of(config, cluster.workers).slots
    begin = f"resumes after step {latest.step}" if latest else f"starts from {job.start_from or 'the towers'}"
    return (
        f"{stage.name:<8} {samples} samples, {job.total_steps} steps; "
        f"global batch {stage.global_batch} = {micro} x {slots} accumulated x {cluster.workers} workers; "
        f"trains {', '.join(part.value for part in stage.trained)}; {begin}"
    )
