"""MLflow: the server or folder of ``MLFLOW_TRACKING_URI``, by default the folder ``mlflow`` of all runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lladav.config.introspection import format_value
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.storage import absolute, local_path, location
from train.trainer.tracking.tracker import PROJECT, TrackedRun, Tracker, ValidationAnswer

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "mlflow"
"""Folder in ``train.storage``."""
ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"
"""MLflow's switch for a tracking URI that is a folder."""
MAX_PARAM = 6000
"""Longest value of a setting that MLflow accepts."""
STEP = "loss"
"""Every row has this number, so its history tells which steps MLflow has."""


def tracking_uri(config: Config, environment: Mapping[str, str]) -> str:
    """Where runs are written; raises ``UserError`` if the default is no local folder."""
    if uri := environment.get("MLFLOW_TRACKING_URI"):
        return uri
    folder = local_path(location(absolute(config.train.storage)))
    if folder is None:
        raise UserError(
            f"train.trackers: mlflow cannot write to train.storage={config.train.storage}; "
            "set MLFLOW_TRACKING_URI to a server or a folder"
        )
    return (folder / FOLDER).as_uri()


class MlflowRun(Tracker):
    """Logs to a run of MLflow, which a resumed run continues."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient  # optional, slow to import

        uri = tracking_uri(run.config, run.environment)
        if uri.startswith("file:"):
            os.environ.setdefault(ALLOW_FOLDER, "true")
        self._client = MlflowClient(uri)
        self._id = run.id_of("mlflow", lambda: _create(self._client, run))
        self._client.update_run(self._id, status="RUNNING")
        history = self._client.get_metric_history(self._id, STEP)
        self._known = max((metric.step for metric in history), default=0)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step > self._known:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        rows = [answer.row for answer in answers]
        self._client.log_dict(self._id, {"answers": rows}, f"answers/step-{step:08}.json")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _create(client: MlflowClient, run: TrackedRun) -> str:
    """Create the run with its settings; return its id."""
    from mlflow.entities import Param

    name = run.environment.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    created = client.create_run(experiment_id, run_name=run.name).info.run_id
    params = [Param(key, format_value(value)[:MAX_PARAM]) for key, value in run.settings.items()]
    for start in range(0, len(params), 100):  # the most that MLflow takes at a time
        client.log_batch(created, params=params[start : start + 100])
    return created
