"""Checks before anything is started or written: settings, weights, tokenizer, data.

All stages of a command are checked before the first one is trained, so a mistake in the last stage is
reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from data.pipeline.validation import validation_settings
from data.sources.locations import source_files
from lladav.config.schema import RELEASED, Config
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer, check_special_tokens
from lladav.storage import absolute_model, as_user_error, exists, model_location
from train.checkpoints.run_folder import WEIGHTS, Checkpoint, Run, check_text_version
from train.trainer.tracking.opening import check_trackers


def check_stages(configs: Sequence[Config]) -> None:
    """Raise ``UserError`` for the first stage that cannot be trained after the stages before it."""
    trained: set[str] = set()
    for config in configs:
        _check_stage(config, trained)
        trained.add(Run.of(config).name)


def _check_stage(config: Config, trained: set[str]) -> None:
    run = Run.of(config)
    run.check_settings(config)
    latest = run.latest()
    if latest and latest.final:
        return
    if latest:
        check_text_version(run.name, latest)
        _check_adapter(config, str(latest.path / WEIGHTS))
    elif not _starts_from_one_of(config, trained):
        _check_weights(config, starting_weights(config))
    check_special_tokens(config.model, ChatTokenizer.load(config.model.tokenizer))
    source_files(config)
    source_files(validation_settings(config))
    check_trackers(config, os.environ)


def _starts_from_one_of(config: Config, runs: set[str]) -> bool:
    """Whether the stage starts from one of these runs, which the same command trains before."""
    before = config.stage.previous
    return config.train.init is None and before is not None and Run.of(config, before).name in runs


def starting_weights(config: Config) -> str | None:
    """The weights that the stage starts from (LLaDA-V layout); None: the configured towers.

    An absolute path, a URI or a hub id. Raises ``UserError`` if the settings name none.
    """
    if config.train.init:
        return absolute_model(config.train.init)
    if config.stage.starts_from == RELEASED:
        return absolute_model(_released(config))
    if config.stage.previous:
        return str(_predecessor(config, config.stage.previous).path / WEIGHTS)
    return None


def _released(config: Config) -> str:
    model = config.model
    if model.weights.released is None:
        raise UserError(
            f"stage {config.stage.name} starts from the released model, and conf/model/{model.name}.yaml "
            "names none; set model.weights.released or train.init"
        )
    return model.weights.released


def _check_weights(config: Config, start_from: str | None) -> None:
    """Raise ``UserError`` if the headers of the weights to start from cannot be read or do not fit."""
    from lladav.checkpoint.config_reading import check_architecture  # imports torch, which takes seconds

    if start_from:
        _check_readable(_starting_key(config), start_from, config)
        _check_adapter(config, start_from)
        return
    weights = config.model.weights
    towers = {"language": weights.language, "vision": weights.vision}
    for key, folder in ({"llada_v": weights.llada_v} if weights.llada_v else towers).items():
        if folder:
            _check_readable(f"model.weights.{key}", folder, config)
            check_architecture(folder)
    _check_adapter(config, None)


def _starting_key(config: Config) -> str:
    """The setting that names the weights to start from."""
    if config.train.init:
        return "train.init"
    return "model.weights.released" if config.stage.starts_from == RELEASED else "stage.starts_from"


def _check_adapter(config: Config, start_from: str | None) -> None:
    """Raise ``UserError`` if an adapter to start from does not fit the settings or has lost its base."""
    if config.adapted:
        from train.trainer.starting_point import starting_point  # imports torch, which takes seconds

        starting_point(config, start_from)


def _check_readable(key: str, folder: str, config: Config) -> None:
    """``key`` is the setting that names the folder."""
    from lladav.checkpoint.index import stored_tensors  # imports torch, which takes seconds

    with as_user_error(f"{key}={folder}: cannot be read", "check the path or URI and the credentials"):
        if not exists(weights := model_location(folder)):
            raise UserError(f"{key}={folder}: no such weights; {_fix(config)}")
        stored_tensors(weights)


def _predecessor(config: Config, stage: str) -> Checkpoint:
    """The final checkpoint of the run of another stage; raises ``UserError`` if there is none."""
    latest = Run.of(config, stage).latest()
    if latest is None or not latest.final:
        command = f"python train/run.py stage={stage} model={config.model.name} data={config.data.name}"
        state = f"is only at step {latest.step} of {latest.total_steps}" if latest else "has no run"
        raise UserError(
            f"stage {config.stage.name} starts from {stage}, which {state} in {config.train.storage}; "
            f"run: {command}"
        )
    return latest


def _fix(config: Config) -> str:
    """How to get the weights of towers, for an error line."""
    command = f"python train/towers.py model={config.model.name} data={config.data.name}"
    return f"point it at the published weights, or make a tiny model's towers with: {command}"
