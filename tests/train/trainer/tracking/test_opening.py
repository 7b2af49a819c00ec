"""Trackers are checked before a run starts, and workers get the variables of the driver."""

from __future__ import annotations

import pytest

from lladav.config.loader import load
from lladav.config.schema import TrackerKind
from lladav.errors import UserError
from train.trainer.tracking.opening import TRACKERS, check_trackers, tracker_variables


def test_every_kind_has_an_entry() -> None:
    assert set(TRACKERS) == set(TrackerKind)


def test_a_missing_package_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = TRACKERS[TrackerKind.mlflow]._replace(package="no_such_package")
    monkeypatch.setitem(TRACKERS, TrackerKind.mlflow, missing)
    config = load(["train.trackers=[tensorboard,mlflow]"])
    with pytest.raises(UserError) as error:
        check_trackers(config, {})
    assert str(error.value) == (
        "train.trackers=[tensorboard,mlflow]: the package no_such_package is missing; "
        "pip install 'lladav[trackers]'"
    )


def test_a_run_without_trackers_needs_nothing() -> None:
    check_trackers(load(["train.trackers=[]"]), {})


def test_workers_get_the_variables_of_trackers_alone() -> None:
    environment = {"WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "u", "HOME": "h"}
    assert tracker_variables(environment) == {"WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "u"}
