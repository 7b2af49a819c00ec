"""Experiments as data: the shipped files load, the grid becomes trials, bad input is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.digits.questions import Split
from lladav.config.loader import run_name
from lladav.errors import UserError
from train.experiment import describe, help_text
from train.experiments.definition import experiment_names, load_experiment
from train.experiments.kinds import KINDS


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_loads(name: str, root: Path) -> None:
    experiment = load_experiment([f"experiment={name}"])
    KINDS[experiment.kind].options_of(experiment)
    assert (experiment.name, experiment.split) == (name, Split.test)
    assert all(trial.config().data.name == "digits" for trial in experiment.trials())
    about = (root / "conf" / "experiment" / f"{name}.yaml").read_text().partition("\n")[0]
    assert about.startswith("# ")
    assert about[2:] in help_text()


def test_a_trial_for_each_combination_has_its_own_run() -> None:
    arguments = ["experiment=masks", "experiment.grid.train.seed=[1,2]", "experiment.name=m"]
    trials = load_experiment(arguments).trials()
    assert [trial.name for trial in trials][:3] == [
        "bidirectional-seed-1",
        "bidirectional-seed-2",
        "dialogue_causal-seed-1",
    ]
    assert {trial.config().train.seed for trial in trials} == {1, 2}
    assert run_name(trials[0].config()) == "m-bidirectional-seed-1-llava_next-tiny-digits"
    assert len({run_name(trial.config()) for trial in trials}) == 6


def test_trials_without_settings_of_their_own_are_the_ordinary_runs() -> None:
    trials = load_experiment(["experiment=curriculum", "train.micro_batch=8"]).trials()
    assert run_name(trials[0].config()) == "si-tiny-digits"


def test_decoding_settings_and_a_checkpoint_are_no_settings_of_a_run() -> None:
    first, *_ = load_experiment(["experiment=refresh", "checkpoint=/weights", "decoding.top_p=0.5"]).trials()
    assert first.decoding == {"max_tokens": 48, "block_length": 48, "top_p": 0.5, "refresh_interval": 1}
    assert first.checkpoint == "/weights"
    assert not any(key.startswith(("decoding", "checkpoint")) for key in first.settings)


def test_a_description_of_the_trials() -> None:
    first, *_ = describe(load_experiment(["experiment=masks", "train.max_steps=3"]))
    assert first.startswith("bidirectional:  python train/run.py stage=llava_next model=tiny")
    assert "train.max_steps=3" in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=mask"], "experiment=mask: no such experiment; did you mean masks"),
        (["stage=si"], "experiment=: no such experiment"),
        (["experiment=masks", "--fast"], "--fast: not a setting; write key=value"),
        (
            ["experiment=masks", "experiment.spilt=test"],
            r"experiment\.spilt: unknown key; did you mean split",
        ),
        (["experiment=masks", "experiment.split=all"], r"experiment\.split=all: no such choice"),
        (
            ["experiment=masks", "experiment.grid.train.seed=1"],
            r"experiment\.grid\.train\.seed=1: must be a list",
        ),
        (["experiment=masks", "experiment.grid=3"], r"experiment\.grid: must be names with values"),
        (["experiment=masks", "train.run=mine"], r"train\.run: trials have their own names"),
        (["experiment=curriculum", "experiment.grid.stage=[all]"], "stage=all: a trial is one stage"),
        (
            ["experiment=masks", "experiment.grid.train.seed=[1,1]"],
            "two trials have the name bidirectional-seed-1",
        ),
        (["experiment=masks", "model.attention=none", "train.sed=1"], r"train\.sed: unknown key"),
        (["experiment=masks", "experiment.name=a/b"], "part of a folder's name"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(arguments).trials()


def test_an_unknown_option_of_the_kind_is_refused() -> None:
    experiment = load_experiment(["experiment=masks", "experiment.options.type=[read]"])
    with pytest.raises(UserError, match=r"experiment\.options\.type: unknown key; did you mean types"):
        KINDS[experiment.kind].options_of(experiment)
