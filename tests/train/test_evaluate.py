"""Saved answers are reused until something that determines them changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.digits.questions import Split
from lladav.config.schema import Config
from lladav.errors import UserError
from lladav.storage import local_path
from tests.train.untrained import untrained_run
from train.checkpoints.run_folder import Run
from train.evaluate import EVALUATION, SCHEMA_EVALUATION, evaluate, take_schema, take_split
from train.evaluation.held_out import text_of_json


def checkpoint(config: Config) -> Path:
    folder = local_path(Run.of(config).checkpoint_path(1))
    assert folder is not None
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return untrained_run(tmp_path, Split.validation)


def test_answers_are_reused_until_a_question_or_a_setting_changes(config: Config) -> None:
    file = checkpoint(config) / EVALUATION[Split.validation]
    assert evaluate(config)["all"].questions == 2
    first = json.loads(file.read_text())
    first["answers"][0]["correct"] = first["answers"][1]["correct"] = True
    file.write_text(json.dumps(first))
    assert evaluate(config)["all"].correct == 2  # the saved answers, not the model's
    config.objective.block_length = 4
    evaluate(config)
    second = json.loads(file.read_text())
    assert second["key"] != first["key"]
    config.model.allow_eos = True
    evaluate(config)
    assert json.loads(file.read_text())["key"] != second["key"]
    questions = Path(config.data.root) / "held_out" / "questions.jsonl"
    questions.write_text(questions.read_text().splitlines()[0] + "\n")
    assert evaluate(config)["all"].questions == 1


def test_a_part_of_the_questions_is_asked(config: Config) -> None:
    assert evaluate(config, every=2)["all"].questions == 1
    assert evaluate(config)["all"].questions == 2


def test_the_halves_have_their_own_answers(config: Config) -> None:
    with pytest.raises(UserError, match="has no questions of the test half; write them with"):
        evaluate(config, Split.test)
    questions = Path(config.data.root) / "held_out" / "questions.jsonl"
    first, second = questions.read_text().splitlines()
    questions.write_text(f"{first}\n{json.dumps({**json.loads(second), 'split': 'test'})}\n")
    assert [evaluate(config, split)["all"].questions for split in Split] == [1, 1]
    files = [json.loads((checkpoint(config) / EVALUATION[split]).read_text()) for split in Split]
    assert files[0]["key"] != files[1]["key"]


def test_answers_that_fit_a_schema_are_compared_by_their_property_answer(
    config: Config, tmp_path: Path
) -> None:
    schema = tmp_path / "answer.json"
    schema.write_text('{"properties": {"answer": {"enum": ["7"]}}, "required": ["answer"], "type": "object"}')
    assert evaluate(config, schema=schema)["all"].questions == 2
    saved = json.loads((checkpoint(config) / SCHEMA_EVALUATION[Split.validation]).read_text())
    assert [row["answer"] for row in saved["answers"]] == ["7", "7"]
    assert not (checkpoint(config) / EVALUATION[Split.validation]).exists()
    schema.write_text('{"type": "object", "properties": {"answer": {"type": "string", "maxLength": -1}}}')
    with pytest.raises(UserError, match=r"schema=.*answer\.json#/properties/answer"):
        evaluate(config, schema=schema)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"answer": 3, "sure": true}', "3"),
        ('{"answer": ["12", 3]}', "12, 3"),
        ('"odd"', "odd"),
        ("17", "17"),
        ('{"digit": 3}', '{"digit": 3}'),
    ],
)
def test_a_json_answer_is_compared_as_text(answer: str, text: str) -> None:
    assert text_of_json(answer) == text


def test_the_command_takes_the_half_by_name() -> None:
    assert take_split(["stage=si", "split=test", "model=tiny"]) == (Split.test, ["stage=si", "model=tiny"])
    assert take_split(["stage=si"]) == (Split.validation, ["stage=si"])
    with pytest.raises(UserError, match=r"split=tests: .*did you mean test\?"):
        take_split(["split=tests"])
    assert take_schema(["schema=a.json", "stage=si"]) == (Path("a.json"), ["stage=si"])
    assert take_schema(["stage=si"]) == (None, ["stage=si"])


def test_a_file_of_an_earlier_version_is_not_reused(config: Config) -> None:
    file = checkpoint(config) / EVALUATION[Split.validation]
    file.write_text(json.dumps({"seconds": 0.1, "answers": []}))
    assert evaluate(config)["all"].questions == 2
