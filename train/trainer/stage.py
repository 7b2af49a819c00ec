"""Training of one stage: checks, manifest, the run's folder, and the workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace

from data.manifest.manifest import Manifest, open_manifest
from data.manifest.ray_map import ray_map
from data.pipeline.contents import epoch_contents
from data.pipeline.plan import BatchLayout, Plan
from data.pipeline.validation import ValidationSet, validation_settings
from lladav.cluster import connect
from lladav.config.schema import Config, WeightsConfig
from lladav.storage import absolute, absolute_model, local_path
from train.checkpoints.run_folder import Checkpoint, Run
from train.checkpoints.run_lock import claimed
from train.trainer.job import Job
from train.trainer.preflight import check_stages, starting_weights
from train.trainer.progress import Progress, report
from train.trainer.tracking.opening import tracker_variables
from train.trainer.workers import train


def run_stages(configs: Sequence[Config]) -> None:
    """Train the stages in order; skip those that are finished."""
    check_stages(configs)
    with connect(configs[0].cluster):
        for config in configs:
            run_stage(config)


def run_stage(config: Config) -> None:
    """Train or resume one stage; raises ``UserError`` if it cannot start or has to end early.

    Everything that the stage needs is checked before anything is written to the run's folder.
    """
    run = Run.of(config)
    check_stages([config])
    latest = run.latest()
    if latest and latest.final:
        report(f"{config.stage.name:<8} done: {latest.step} steps, {latest.path}")
        return
    manifest = open_manifest(config, mapper=ray_map, report=report)
    plan, held_out = Plan.of(manifest, config), held_out_samples(config, manifest)
    steps = plan.steps
    with claimed(run.path) as owner:
        run.bind(config)
        latest = run.latest()  # again: until the claim, another driver may have saved a checkpoint
        start_from = None if latest else starting_weights(config)
        absolute_config, variables = with_absolute_paths(config), tracker_variables(os.environ)
        job = Job(absolute_config, str(manifest.folder), steps, start_from, held_out, variables, owner.token)
        report(headline(job, plan.samples, latest))
        for line in epoch_contents(config, manifest):
            report(f"  {line}")
        if held_out:
            report(f"  validation: samples {len(held_out):,}, every {config.train.validate_every} steps")
        with Progress(local_path(run.path), config.stage.name, latest.step if latest else 0, steps):
            train(job, manifest, replace(run, token=owner.token))
    report(result_line(config, run))


def held_out_samples(config: Config, manifest: Manifest) -> ValidationSet | None:
    """The samples of validations; ``manifest`` is that of the stage. None if there are no validations."""
    if not config.validates:
        return None
    if config.data.validation.sources:
        manifest = open_manifest(validation_settings(config), mapper=ray_map, report=report)
    return ValidationSet.of(manifest, config)


def result_line(config: Config, run: Run) -> str:
    """The line at the end of a stage: its last checkpoint and its best one."""
    latest, best = run.latest(), run.best()
    assert latest is not None
    line = f"{config.stage.name:<8} done: {latest.path}"
    if best is None or best.best is None:
        return line
    return f"{line}; lowest validation loss {best.best.loss:.4f} after step {best.step}: {best.path}"


def with_absolute_paths(config: Config) -> Config:
    """The same settings with absolute paths: workers run in other folders than the driver.

    Hub ids stay: each machine has its own cache.
    """
    weights = {key: path and absolute_model(path) for key, path in asdict(config.model.weights).items()}
    return replace(
        config,
        model=replace(
            config.model, weights=WeightsConfig(**weights), tokenizer=absolute_model(config.model.tokenizer)
        ),
        data=replace(config.data, root=absolute(config.data.root)),
        train=replace(config.train, storage=absolute(config.train.storage)),
    )


def headline(job: Job, samples: int, latest: Checkpoint | None) -> str:
    """The line at the start of a stage: samples, steps, global batch, trained parts, start."""
    config, cluster = job.config, job.config.cluster
    stage, micro = config.stage, config.train.micro_batch
    accumulation = BatchLayout.of(config, cluster.workers).accumulation_steps
    trained = [f"adapters of {part}" if part in config.adapted else part for part in stage.trained]
    weights = job.start_from or config.model.weights.llada_v or "the towers"
    begin = f"resumes after step {latest.step}" if latest else f"starts from {weights}"
    return (
        f"{stage.name:<8} {samples} samples, {job.total_steps} steps; "
        f"global batch {stage.global_batch} = "
        f"{micro} x {accumulation} accumulated x {cluster.workers} workers; "
        f"trains {', '.join(trained)}; {begin}"
    )
