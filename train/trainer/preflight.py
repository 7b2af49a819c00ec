"""What a stage needs, checked before anything is started or written: settings, weights, tokenizer, data.

All stages of a command are checked before the first one is trained, so that a mistake in the last one shows
at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.sources.locations import source_files
from lladav.checkpoint.index import stored_tensors
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer, check_special_tokens
from lladav.storage import absolute, as_user_error, exists, location
from train.checkpoints.run_folder import WEIGHTS, Checkpoint, Run, refuse_other_text


def check_stages(configs: Sequence[Config]) -> None:
    """Raise ``UserError`` for the first stage that could not be trained after those before it."""
    trained: set[str] = set()
    for config in configs:
        _check_stage(config, trained)
        trained.add(Run.of(config).name)


def _check_stage(config: Config, trained: set[str]) -> None:
    run = Run.of(config)
    run.refuse_other(config)
    latest = run.latest()
    if latest and latest.final:
        return
    if latest:
        refuse_other_text(run.name, latest)
    elif not (_starts_from_run(config) and Run.of(config, config.stage.starts_from).name in trained):
        _check_weights(config, starting_weights(config))
    check_special_tokens(config.model, ChatTokenizer.load(config.model.tokenizer))
    source_files(config)


def _starts_from_run(config: Config) -> bool:
    return config.train.init is None and config.stage.starts_from is not None


def starting_weights(config: Config) -> str | None:
    """Location of the weights that the stage continues (LLaDA-V layout); None: the towers as published."""
    if config.train.init:
        return absolute(config.train.init)
    if config.stage.starts_from:
        return str(_predecessor(config, config.stage.starts_from).place / WEIGHTS)
    return None


def _check_weights(config: Config, start_from: str | None) -> None:
    """Read the headers of the weights that the stage would start from."""
    if start_from:
        _check_readable("train.init" if config.train.init else "stage.starts_from", start_from, config)
        return
    weights = config.model.weights
    towers = {"language": weights.language, "vision": weights.vision}
    for key, folder in ({"llada_v": weights.llada_v} if weights.llada_v else towers).items():
        if folder:
            _check_readable(f"model.weights.{key}", folder, config)


def _check_readable(key: str, folder: str, config: Config) -> None:
    with as_user_error(f"{key}={folder}: cannot be read", "check the path or URI and the credentials"):
        if not exists(location(folder)):
            raise UserError(f"{key}={folder}: no such weights; {_how_to_get(config)}")
        stored_tensors(location(folder))


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
