"""One stage from settings to its last checkpoint: its starting weights and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from data.manifest import open_manifest
from data.parallel import ray_map
from data.plan import Layout, Plan
from lladav.cluster import connect
from lladav.errors import UserError
from lladav.schema import Config, WeightsConfig
from lladav.storage import absolute, local_path, location
from lladav.text import check_tokens
from train.job import Job
from train.progress import Progress, say
from train.runs import WEIGHTS, Checkpoint, Run, refuse_other_text
from train.workers import train


def run_stages(configs: Sequence[Config]) -> None:
    """Train the stages in order; those that are done are told and left."""
    with connect(configs[0].cluster):
        for config in configs:
            run_stage(config)


def run_stage(config: Config) -> None:
    """Train one stage, or go on with it; raises ``UserError`` where it cannot start or had to end early."""
    run = Run.of(config)
    run.bind(config)
    latest = run.latest()
    if latest and latest.final:
        say(f"{config.stage.name:<8} done: {latest.step} steps, {latest.place}")
        return
    if latest:
        refuse_other_text(run.name, latest)
    start_from = starting_weights(config)
    check_tokens(config.model)
    manifest = open_manifest(config, mapper=ray_map)
    job = Job(with_absolute_paths(config), str(manifest.folder), Plan.of(manifest, config).steps, start_from)
    say(headline(job, len(manifest), latest))
    with Progress(local_path(run.place), config.stage.name, latest.step if latest else 0, job.total_steps):
        train(job, manifest, run)
    say(f"{config.stage.name:<8} done: {run.checkpoint_place(job.total_steps)}")


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


def starting_weights(config: Config) -> str | None:
    """Location of the weights that the stage continues (LLaDA-V layout); None: the towers as published."""
    if config.train.init:
        return absolute(config.train.init)
    if config.stage.starts_from:
        return str(_predecessor(config, config.stage.starts_from).place / WEIGHTS)
    weights = config.model.weights
    for key, folder in {
        "llada_v": weights.llada_v,
        "language": weights.language,
        "vision": weights.vision,
    }.items():
        if folder and not location(folder).exists():
            raise UserError(f"model.weights.{key}={folder}: no such weights; {_how_to_get(config)}")
    return None


def _predecessor(config: Config, stage: str) -> Checkpoint:
    latest = Run.of(config, stage).latest()
    if latest is None or not latest.final:
        command = f"python train/run.py stage={stage} model={config.model.name} data={config.data.name}"
        state = f"has only got to step {latest.step} of {latest.total_steps}" if latest else "has no run"
        raise UserError(
            f"stage {config.stage.name} starts from {stage}, which {state} in {config.train.storage}; "
            f"run: {command}"
        )
    return latest


def _how_to_get(config: Config) -> str:
    if config.model.name == "tiny":
        return f"make them with: python train/towers.py model=tiny data={config.data.name}"
    return "point it at the folder of the published checkpoint"


def headline(job: Job, samples: int, latest: Checkpoint | None) -> str:
    """What is about to happen, with the arithmetic of the global batch."""
    config, cluster = job.config, job.config.cluster
    stage, micro = config.stage, config.train.micro_batch
    slots = Layout.of(config, cluster.workers).slots
    begin = f"goes on after step {latest.step}" if latest else f"starts from {job.start_from or 'the towers'}"
    return (
        f"{stage.name:<8} {samples} samples, {job.total_steps} steps; "
        f"global batch {stage.global_batch} = {micro} x {slots} accumulated x {cluster.workers} workers; "
        f"trains {', '.join(part.value for part in stage.trained)}; {begin}"
    )
