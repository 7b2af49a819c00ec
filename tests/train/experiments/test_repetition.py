"""The experiment ``repetition``: answers of an untrained model, and the table of known texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lladav.config.schema import Config
from tests.train.experiments.subjects import a_folder_of_images, digits_config, subject, untrained
from train.experiments.definition import Trial, load_experiment
from train.experiments.kind import Measured
from train.experiments.repetition import REFERENCES, REPETITION, TEXTS, measure, tables

SHORT = {"max_tokens": 8, "block_length": 8, "tokens_per_step": 4}


@pytest.fixture
def config() -> Config:
    return digits_config()


def test_answers_about_built_in_images_are_compared_with_the_digits(config: Config, tmp_path: Path) -> None:
    weights = untrained(config, tmp_path / "weights")
    found = measure(subject("repetition", config, weights, SHORT, sequences=3))
    found = json.loads(json.dumps(found))
    assert [row["tokens"] for row in found[TEXTS]] == [8, 8, 8]
    assert all({"true", "covered"} <= row.keys() for row in found[TEXTS])
    assert all(text.endswith(".") and "The largest digit is" in text for text in found[REFERENCES])
    trials = [Measured(Trial(name, {}, {}), found) for name in ("first", "second")]
    header, _, *rows = tables(trials).splitlines()
    assert "true sentences" in header
    assert [row.split("|")[1].strip() for row in rows] == ["first", "second", "correct texts"]
    REPETITION.draw(trials, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_answers_about_other_images_are_not(config: Config, tmp_path: Path) -> None:
    weights, images = untrained(config, tmp_path / "weights"), a_folder_of_images(tmp_path)
    found = measure(subject("repetition", config, weights, SHORT, images=str(images)))
    assert len(found[TEXTS]) == 3
    assert found[REFERENCES] == []
    assert "true" not in tables([Measured(Trial("t", {}, {}), found)])


def test_the_table_has_the_means_over_answers() -> None:
    texts = ["the digit is 3 . " * 10, "one two three four five six"]
    rows = [{"text": text, "tokens": 10 * n, "stopped": n == 1} for n, text in enumerate(texts, start=1)]
    *_, line = tables([Measured(Trial("t", {}, {}), {TEXTS: rows, REFERENCES: []})]).splitlines()
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:4] == ["t", "2", "15.0 (-49-79)"]
    assert cells[4].startswith("50.0 (")
    assert cells[5].startswith("44.9 (")  # half of 1 - 5 / 49


def test_trials_vary_decoding_and_the_training_objective() -> None:
    trials = load_experiment(["experiment=repetition"]).trials()
    assert len({trial.name for trial in trials}) == len(trials) > 8
    assert len({trial.settings["train.run"] for trial in trials}) == 2
    decoding: list[Any] = [trial.decoding for trial in trials]
    assert {"max_tokens": 160, "block_length": 160, "no_repeat_ngram": 8} in decoding
