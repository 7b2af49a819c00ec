"""The demo: output of its commands, evaluation of its stages in parallel, and its table of scores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.digits.questions import Split
from tests.train.untrained import untrained_run
from train.demo import _run, evaluate_all, summary
from train.evaluate import Score


def test_output_is_shown_without_the_lines_of_the_private_ray():
    shown: list[str] = []
    script = "print('2026 INFO cli.py:36 -- Job submitted'); print(); print('si  done')"
    _run([sys.executable, "-c", script], shown.append)
    assert shown == ["si  done"]


def test_the_exit_code_of_a_command_is_that_of_the_demo():
    with pytest.raises(SystemExit, match="3"):
        _run([sys.executable, "-c", "raise SystemExit(3)"], print)


@pytest.mark.slow
def test_stages_are_evaluated_in_parallel_and_listed_in_order(tmp_path: Path):
    configs = [untrained_run(tmp_path, Split.test, stage) for stage in ("ov", "ov_vw")]
    by_stage = evaluate_all(configs)
    assert {stage: scores["all"].questions for stage, scores in by_stage.items()} == {"ov": 1, "ov_vw": 2}
    assert list(by_stage) == ["ov", "ov_vw"]


def test_the_table_has_a_column_for_each_stage():
    few, many = {"all": Score(40, 30)}, {"all": Score(120, 96)}
    rows = summary({"ov": few, "ov_vw": many}).splitlines()
    assert rows[1].split() == ["exact", "match", "after", "ov", "after", "ov_vw"]
    assert rows[2].split() == ["all", "75.0%", "of", "40", "80.0%", "of", "120"]
