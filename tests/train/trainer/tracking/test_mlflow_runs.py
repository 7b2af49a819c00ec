"""Runs of MLflow in a folder, as its own client finds them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lladav.config.loader import load
from lladav.errors import UserError
from tests.apart import apart
from tests.train.trainer.tracking.runs import ANSWER, NAME, track_and_resume
from train.trainer.tracking.mlflow_runs import tracking_uri


def tracked(folder: Path) -> dict[str, Any]:
    """The only run of the store, with its history and its answers."""
    track_and_resume(folder, "mlflow", {})
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("lladav")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    files = [file.path for file in client.list_artifacts(run.info.run_id, "answers")]
    shown = json.loads(Path(client.download_artifacts(run.info.run_id, files[-1], str(folder))).read_text())
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "stage": run.data.params["stage.name"],
        "history": [(metric.step, metric.value) for metric in history],
        "files": files,
        "answers": shown["answers"],
    }


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_a_resumed_run_goes_on_and_repeats_no_step(tmp_path: Path) -> None:
    found = apart(tracked, tmp_path)
    assert (found["name"], found["status"], found["stage"]) == (NAME, "FINISHED", "si")
    assert found["history"] == [(step, step / 2) for step in range(1, 7)]
    assert found["files"] == ["answers/step-00000004.json", "answers/step-00000006.json"]
    [answer] = found["answers"]
    assert answer["question"] == ANSWER.question
    assert (answer["answer"], answer["expected"]) == ("two", "three")


def test_a_bucket_needs_a_server() -> None:
    config = load(["train.storage=s3://bucket/runs"])
    with pytest.raises(UserError, match=r"mlflow cannot write to train\.storage=s3:.*MLFLOW_TRACKING_URI"):
        tracking_uri(config, {})
    assert tracking_uri(config, {"MLFLOW_TRACKING_URI": "http://host:5000"}) == "http://host:5000"
