"""Offline runs of W&B, as its own reader finds them, and the check of the key."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lladav.errors import UserError
from tests.apart import apart
from tests.train.trainer.tracking.runs import ANSWER, NAME, track_and_resume
from train.trainer.tracking.tracker import IDS
from train.trainer.tracking.weights_and_biases import check_key

OFFLINE = {"WANDB_MODE": "offline"}


def records(file: Path) -> list[Any]:
    """The records of an offline file."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), []
    store.open_for_scan(str(file))
    while data := store.scan_data():
        record = Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    """What each start of a run has written: its id, name, settings, and values by step."""
    runs = []
    for file in sorted((folder / NAME / "wandb").glob("offline-run-*/*.wandb")):
        run: dict[str, Any] = {"history": {}}
        for record in records(file):
            if record.HasField("run"):
                run |= {"id": record.run.run_id, "name": record.run.display_name}
                run["settings"] = {item.key for item in record.run.config.update}
            if record.HasField("history"):
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                run["history"][record.history.step.num] = values
        runs.append(run)
    return runs


def tracked(folder: Path) -> list[dict[str, Any]]:
    track_and_resume(folder, "wandb", OFFLINE)
    return offline_runs(folder)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    first, second = apart(tracked, tmp_path, WANDB_MODE="offline", WANDB_ERROR_REPORTING="false")
    assert first["id"] == second["id"] == json.loads((tmp_path / NAME / IDS).read_text())["wandb"]
    assert first["name"] == NAME
    assert {"stage.name", "train.seed"} <= first["settings"]
    assert {step: values["loss"] for step, values in first["history"].items()} == {
        step: step / 2 for step in range(1, 5)
    }
    assert max(second["history"]) == 6
    assert first["history"][4]["validation/pictures/captions"] == [ANSWER.text]
    assert first["history"][4]["validation/answers/nrows"] == 1
    [picture] = (tmp_path / NAME / "wandb").glob(
        "offline-run-*/files/media/images/validation/pictures_4*.png"
    )
    assert picture.stat().st_size


@pytest.mark.parametrize(
    "environment",
    [{}, {"WANDB_MODE": "online"}, {"WANDB_BASE_URL": "https://wandb.example"}],
)
def test_a_missing_key_is_reported_in_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=r"^train\.trackers: wandb has no key for .*; set WANDB_API_KEY"
    ) as error:
        check_key({**environment, "NETRC": str(tmp_path / "netrc")})
    assert "\n" not in str(error.value)


def test_a_key_in_the_environment_or_in_netrc_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai login user password secret\n")
    check_key({"NETRC": str(file)})
    check_key({"NETRC": str(tmp_path / "none"), "WANDB_API_KEY": "secret"})
    check_key({"NETRC": str(tmp_path / "none"), **OFFLINE})
