"""The trackers of a run: checked before it starts, and opened by rank 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import NamedTuple

from lladav.config.introspection import format_value
from lladav.config.schema import Config, TrackerKind
from lladav.errors import UserError
from train.trainer.tracking.event_files import EventFiles
from train.trainer.tracking.mlflow_runs import MlflowRun, tracking_uri
from train.trainer.tracking.tracker import TrackedRun, Tracker
from train.trainer.tracking.weights_and_biases import WandbRun, check_key

PREFIXES = ("WANDB_", "MLFLOW_", "DATABRICKS_")
"""Environment variables that configure trackers."""


class TrackerEntry(NamedTuple):
    """A kind of tracker: the package that it needs, and how a run is opened."""

    package: str
    open: Callable[[TrackedRun], Tracker]


TRACKERS = {
    TrackerKind.tensorboard: TrackerEntry("tensorboard", EventFiles),
    TrackerKind.wandb: TrackerEntry("wandb", WandbRun),
    TrackerKind.mlflow: TrackerEntry("mlflow", MlflowRun),
}


def tracker_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that trackers read; a worker on another machine does not have those of the driver."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIXES)}


def check_trackers(config: Config, environment: Mapping[str, str]) -> None:
    """Raise ``UserError`` if a tracker lacks its package, its key or a place to write to."""
    chosen = config.train.trackers
    for kind in chosen:
        package = TRACKERS[kind].package
        if find_spec(package) is None:
            shown = format_value([each.name for each in chosen])
            raise UserError(
                f"train.trackers={shown}: the package {package} is missing; pip install 'lladav[trackers]'"
            )
    if TrackerKind.wandb in chosen:
        check_key(environment)
    if TrackerKind.mlflow in chosen:
        tracking_uri(config, environment)


def open_trackers(run: TrackedRun) -> list[Tracker]:
    """The trackers of a run. A resumed run continues the run that each tracker has."""
    return [TRACKERS[kind].open(run) for kind in run.config.train.trackers]
