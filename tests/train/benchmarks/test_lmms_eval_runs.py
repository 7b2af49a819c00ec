"""Running LMMs-Eval as a command: its arguments, the answers that it logs, and its failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lladav.errors import UserError
from tests.train.benchmarks.lmms_eval_stand_in import stand_in
from train.benchmarks.lmms_eval_runs import LMMsEvalRun, run


def call(folder: Path, writes: bool = True, code: int = 0, **given: Any) -> LMMsEvalRun:
    """A call of a program that stands in for an interpreter with LMMs-Eval."""
    return LMMsEvalRun(stand_in(folder, writes, code), ["mme"], folder / "out", **given)


def test_the_answers_are_in_the_order_of_the_documents(tmp_path: Path) -> None:
    found = run(call(tmp_path)).answers
    assert [(each.document, each.answer) for each in found["mme"]] == [(0, "answer 0"), (1, "answer 1")]


def test_the_throughput_is_that_of_the_call(tmp_path: Path) -> None:
    old = tmp_path / "out" / "2025_results.json"
    old.parent.mkdir()
    old.write_text(json.dumps({"throughput": {"avg_speed": 1}}))
    assert run(call(tmp_path)).tokens_per_second == 2.5


def test_the_command(tmp_path: Path) -> None:
    arguments = {"model": "/model", "refresh_interval": 8}
    made = call(tmp_path, model_args=arguments, batch_size=4, include=Path("/tasks"), limit=5, offline=True)
    record = run(made).answers["mme"][0].record
    assert " ".join(record["arguments"]) == (
        "-m lmms_eval --model lladav --model_args model=/model,refresh_interval=8 --tasks mme --batch_size 4 "
        f"--output_path {tmp_path}/out --log_samples --include_path /tasks --limit 5"
    )
    assert (record["folder"], record["offline"]) == (str(tmp_path / "out"), "1")


@pytest.mark.parametrize(
    ("writes", "code", "says"), [(True, 1, "ended with code 1"), (False, 0, "logged no answers of task mme")]
)
def test_a_failure_has_the_end_of_the_output(tmp_path: Path, writes: bool, code: int, says: str) -> None:
    with pytest.raises(UserError, match=rf"{says}; see .*lmms_eval\.log: the reason"):
        run(call(tmp_path, writes=writes, code=code))


def test_answers_of_an_earlier_call_do_not_count(tmp_path: Path) -> None:
    old = tmp_path / "out" / "2025_samples_mme.jsonl"
    old.parent.mkdir()
    old.write_text(json.dumps({"doc_id": 0, "filtered_resps": ["old"]}))
    with pytest.raises(UserError, match="logged no answers"):
        run(call(tmp_path, writes=False))
    assert run(call(tmp_path)).answers["mme"][0].answer == "answer 0"
