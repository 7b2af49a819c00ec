"""Execution of experiments: results, reuse, failures of single trials, and resuming after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lladav.config.loader import load
from tests.digits import copy_digits
from tests.train.experiments.local import LocalLauncher
from train.experiments.definition import load_experiment
from train.experiments.execution import Execution
from train.experiments.kinds import kind_named
from train.experiments.launcher import parallel_trials
from train.experiments.results import PLOT, RESULTS, measured, write_results
from train.experiments.trainings import trainings_of

QUESTIONS_PER_TYPE = 2


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Settings of runs that need no towers, on a data set with few questions."""
    digits = copy_digits(tmp_path)
    file = digits / "held_out" / "questions.jsonl"
    kept, counts = [], dict[tuple[str, str], int]()
    for line in file.read_text().splitlines():
        row = json.loads(line)
        kind = row["type"], row["split"]
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= QUESTIONS_PER_TYPE:
            kept.append(line)
    file.write_text("\n".join(kept) + "\n")
    return [
        *(f"data.root={digits}", f"model.tokenizer={digits}/tokenizer", f"train.storage={tmp_path}/runs"),
        *("stage.starts_from=null", "model.weights.language=null", "model.weights.vision=null"),
        *("experiment.options.types=[parity,count]", "train.max_steps=1", "cluster.threads_per_worker=1"),
        "experiment.grid.model.attention=[bidirectional,dialogue_causal]",
    ]


def execution(folder: Path, launcher: LocalLauncher, settings: list[str], name: str = "masks") -> Execution:
    experiment = load_experiment([f"experiment={name}", *settings])
    folder.mkdir(exist_ok=True)
    return Execution(experiment, kind_named(experiment.kind), folder, launcher)


def test_trials_are_trained_measured_and_written(tmp_path: Path, settings: list[str]) -> None:
    launcher, folder = LocalLauncher(), tmp_path / "masks"
    run = execution(folder, launcher, settings)
    outcomes = run.run()
    assert [outcome.trial.name for outcome in outcomes] == ["bidirectional", "dialogue_causal"]
    assert sorted(launcher.measured) == sorted(outcome.trial.name for outcome in outcomes)
    write_results(folder, run.experiment, outcomes)
    first, *_ = json.loads((folder / RESULTS).read_text())["trials"]
    assert first["scores"]["parity"]["questions"] == QUESTIONS_PER_TYPE
    assert first["scores"]["all"]["questions"] == 2 * QUESTIONS_PER_TYPE
    assert first["commands"][0].startswith("python train/run.py stage=llava_next")
    assert "answers" not in first
    table = run.kind.tables(measured(outcomes)).splitlines()
    header = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert header == ["exact match, % (95 % interval)", "questions", "bidirectional", "dialogue_causal"]
    assert [line.split()[1] for line in table[2:]] == ["count", "parity", "all"]
    run.kind.draw(measured(outcomes), folder / PLOT)
    assert (folder / PLOT).read_bytes().startswith(b"\x89PNG")


def test_finished_runs_and_measurements_are_reused_while_the_settings_are_the_same(
    tmp_path: Path, settings: list[str]
) -> None:
    before = execution(tmp_path / "e", LocalLauncher(), settings).run()
    again, other = LocalLauncher(), LocalLauncher()
    assert execution(tmp_path / "e", again, settings).run() == before
    assert (again.trained, again.measured) == ([], [])
    execution(tmp_path / "e", other, [*settings, "decoding.block_length=4"]).run()
    assert other.trained == []
    assert len(other.measured) == 2


def test_an_interrupted_experiment_resumes(tmp_path: Path, settings: list[str]) -> None:
    one_by_one = LocalLauncher(killed_at="dialogue_causal")
    one_by_one.parallel = 1
    with pytest.raises(KeyboardInterrupt):
        execution(tmp_path / "e", one_by_one, settings).run()
    assert one_by_one.measured == ["bidirectional"]
    rest = LocalLauncher()
    outcomes = execution(tmp_path / "e", rest, settings).run()
    assert rest.measured == ["dialogue_causal"]
    assert len(measured(outcomes)) == 2


def test_a_failed_trial_is_one_line_and_does_not_end_the_others(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = LocalLauncher(failing=["masks-dialogue"])
    outcomes = execution(tmp_path / "e", launcher, settings).run()
    assert [outcome.error is None for outcome in outcomes] == [True, False]
    *_, line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    run = "masks-dialogue_causal-llava_next-tiny-digits"
    assert line == f"[2/2] dialogue_causal: failed: {run} cannot be trained"


def test_a_run_with_other_settings_is_refused(tmp_path: Path, settings: list[str]) -> None:
    execution(tmp_path / "e", LocalLauncher(), settings).run()
    outcomes = execution(tmp_path / "e", LocalLauncher(), [*settings, "train.clip=2"]).run()
    assert all("was started with train.clip=1.0, now 2.0" in str(outcome.error) for outcome in outcomes)


def test_the_runs_before_a_trial_are_trained_once_and_first(tmp_path: Path) -> None:
    arguments = [f"train.storage={tmp_path}", "train.max_steps=7", "experiment.grid.stage=[ov,vw]"]
    language = f"model.weights.language={tmp_path}/language"
    trials = load_experiment(["experiment=curriculum", language, *arguments]).trials()
    names = [[training.name for training in trainings_of(trial)] for trial in trials]
    assert names[0] == [
        "towers-tiny-digits",
        "pretrain-tiny-digits",
        "si-tiny-digits",
        "curriculum-ov-tiny-digits",
    ]
    assert names[1] == [*names[0][:3], "ov-tiny-digits", "curriculum-vw-tiny-digits"]
    for training in trainings_of(trials[0])[1:3]:
        config = load(training.overrides)
        assert config.train.max_steps is None  # a run that others share has its ordinary settings
        assert config.train.storage == str(tmp_path)
        assert config.model.weights.language == f"{tmp_path}/language"


def test_a_checkpoint_is_measured_without_training(tmp_path: Path, settings: list[str]) -> None:
    trained = LocalLauncher()
    execution(tmp_path / "e", trained, [*settings, "experiment.grid.model.attention=[bidirectional]"]).run()
    (weights,) = (tmp_path / "runs").glob("*/checkpoint-*/weights")
    launcher = LocalLauncher()
    small = ["experiment.options.timed=4", "experiment.options.rounds=1", "decoding.max_tokens=8"]
    own = [each for each in settings if not each.startswith("experiment.grid")]
    arguments = [*own, f"checkpoint={weights}", "decoding.block_length=8", *small]
    intervals = "experiment.grid.decoding.refresh_interval=[1,2,8]"
    run = execution(tmp_path / "r", launcher, [*arguments, intervals], "refresh")
    outcomes = run.run()
    assert launcher.trained == []
    assert launcher.measured == ["refresh_interval-1", "refresh_interval-2", "refresh_interval-8"]
    table = run.kind.tables(measured(outcomes))
    assert "Seconds per token = a + b / r" in table
    assert [line.split()[1] for line in table.splitlines()[2:5]] == ["1", "2", "8"]
    run.kind.draw(measured(outcomes), tmp_path / PLOT)
    assert (tmp_path / PLOT).is_file()


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, settings: list[str]) -> None:
    (outcome, *_) = execution(tmp_path / "e", LocalLauncher(), [*settings, "checkpoint=nowhere"]).run()
    assert "no such weights; name a folder with safetensors files" in str(outcome.error)


@pytest.mark.parametrize(
    ("resources", "trials"), [({"CPU": 2}, 1), ({"CPU": 1}, 1), ({"CPU": 9}, 4), ({}, 1)]
)
def test_as_many_trials_as_have_room_run_at_the_same_time(resources: dict[str, float], trials: int) -> None:
    assert parallel_trials(load(["cluster=local"]).cluster, resources) == trials


def test_gpus_limit_the_trials() -> None:
    cluster = load(["cluster=kuberay"]).cluster
    assert parallel_trials(cluster, {"CPU": 1000, "GPU": 16}) == 2
