"""The experiment ``structured``: what answers may be, answers of an untrained model, and the tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from data.digits.questions import Split
from lladav.config.schema import Config
from lladav.errors import UserError
from tests.train.experiments.subjects import digits_config, subject, untrained
from train.evaluate import stage_questions
from train.evaluation.held_out import Question, text_of_json
from train.experiments.definition import Trial, load_experiment
from train.experiments.kind import ANSWERS, Measured
from train.experiments.structured import (
    STRUCTURED,
    STRUCTURES,
    answer_space,
    comparison_table,
    measure,
    object_spec,
    steps_spec,
    tables,
    value_spec,
)


@pytest.fixture
def config() -> Config:
    return digits_config()


def json_answer(question: Question) -> str:
    """The correct answer in the form of the schema."""
    items, last_number = question.answer.split(", "), re.findall(r"\d+", question.answer)[-1:]
    schema = answer_space(question).schema
    value = {"array": items, "integer": int("".join(last_number) or 0)}.get(schema.get("type", ""))
    if "enum" in schema:
        value = next(each for each in schema["enum"] if str(each) == question.answer)
    return json.dumps({"answer": question.answer if value is None else value})


@pytest.mark.parametrize("split", list(Split))
def test_the_correct_answer_to_every_question_is_permitted(config: Config, split: Split) -> None:
    for question in stage_questions(config, split):
        space = answer_space(question)
        assert re.fullmatch(space.pattern, question.answer), (question.text, question.answer)
        answer = json_answer(question)
        jsonschema.validate(json.loads(answer), json.loads(object_spec(space).source))
        jsonschema.validate(json.loads(answer)["answer"], json.loads(value_spec(space).source))
        steps = {"steps": question.answer.split(". ")[0]} if question.type == "arithmetic" else {}
        jsonschema.validate({**steps, **json.loads(answer)}, json.loads(steps_spec(space).source))
        if question.type != "arithmetic":
            assert text_of_json(answer) == question.answer


@pytest.mark.parametrize("structure", ["text", "value", "object"])
def test_answers_have_the_structure(config: Config, tmp_path: Path, structure: str) -> None:
    weights = untrained(config, tmp_path / "weights")
    asked = subject("structured", config, weights, {"structure": structure}, types=["parity", "multi-image"])
    found = measure(asked)[ANSWERS]
    questions = {q.id: q for q in stage_questions(config) if q.type in ("parity", "multi-image")}
    assert [row["id"] for row in found] == list(questions)
    assert all(re.fullmatch(answer_space(questions[row["id"]]).pattern, row["answer"]) for row in found)


def test_an_answer_with_a_fixed_beginning_is_free_from_there_on(config: Config, tmp_path: Path) -> None:
    weights = untrained(config, tmp_path / "weights")
    asked = subject("structured", config, weights, {"structure": "started"}, types=["parity"])
    answers = [row["answer"] for row in measure(asked)[ANSWERS]]
    assert all(answer.startswith('{"answer": ') for answer in answers)
    assert not any(re.fullmatch(r'\{"answer": "(even|odd)"\}', answer) for answer in answers)
    started = STRUCTURES["started"]
    assert started is not None
    assert started.text_of('{"answer": "odd"}') == "odd"


def test_an_unknown_structure_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"decoding.structure=objct: no such choice.*object"):
        measure(subject("structured", config, decoding={"structure": "objct"}))


def test_the_tables_compare_each_structure_with_the_first(tmp_path: Path) -> None:
    def trial(name: str, *correct: bool) -> Measured:
        rows = [{"id": f"{n}", "type": "count", "correct": right} for n, right in enumerate(correct)]
        return Measured(Trial(name, {}, {}), {ANSWERS: rows})

    trials = [trial("free", True, False, False), trial("object", True, True, False)]
    *_, line = comparison_table(*trials).splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["all", "1", "0", "1.000"]
    assert "object against free" in tables(trials)
    STRUCTURED.draw(trials, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_trials_differ_in_the_structure_only() -> None:
    trials = load_experiment(["experiment=structured"]).trials()
    assert [trial.name for trial in trials] == ["free", "text", "value", "object", "steps", "started"]
    assert len({tuple(trial.overrides) for trial in trials}) == 1
