"""The experiment ``refresh_tasks``: answers, scores and speed of LMMs-Eval become a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lladav.errors import UserError
from tests.train.benchmarks.lmms_eval_stand_in import stand_in
from tests.train.experiments.subjects import digits_config, subject
from train.experiments.benchmark_tasks import inputs, measure, score_of
from train.experiments.kind import Subject

DECODING = {"refresh_interval": 8}


def task_subject(folder: Path, **options: Any) -> Subject:
    """A trial on a task whose LMMs-Eval is a stand-in."""
    given = {"tasks": ["mme"], "metric": "right", "python": str(stand_in(folder)), **options}
    return subject("refresh_tasks", digits_config(), "/model", DECODING, **given)


def test_a_measurement_has_scored_answers_and_the_speed_of_the_model(tmp_path: Path) -> None:
    assert measure(task_subject(tmp_path)) == {
        "answers": [
            {"id": "mme/0", "type": "mme", "answer": "answer 0", "correct": False},
            {"id": "mme/1", "type": "mme", "answer": "answer 1", "correct": True},
        ],
        "seconds_per_token": 1 / 2.5,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "name tasks of LMMs-Eval"),
        ({"metric": "wrong"}, "no such score; the task logs right"),
    ],
)
def test_options_that_are_missing_are_named(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(task_subject(tmp_path, **options))


@pytest.mark.parametrize(
    ("value", "score"), [(1, 1.0), (True, 1.0), (0.25, 0.25), ({"score": 1.0, "id": "a"}, 1.0)]
)
def test_a_score_is_a_number_or_within_a_mapping(value: Any, score: float) -> None:
    assert score_of({"doc_id": 3, "metric": value}, "metric") == score


def test_a_measurement_is_reused_for_the_same_decoding_only(tmp_path: Path) -> None:
    eight = task_subject(tmp_path)
    four = subject("refresh_tasks", digits_config(), "/model", {"refresh_interval": 4}, tasks=["mme"])
    assert inputs(eight) == inputs(task_subject(tmp_path)) != inputs(four)
