"""The files of an experiment: one per measured trial, and the results of all.

``trials/NAME.json`` holds a measurement and the key of everything that determines it. A later execution
reuses the measurement while the key is the same.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lladav.config.loader import to_yaml
from lladav.errors import UserError
from lladav.storage import location, model_location, version, write_durably
from train.evaluate import scores
from train.experiments.definition import Experiment, Trial
from train.experiments.kind import ANSWERS, Kind, Measured, Measurement, Subject
from train.experiments.significance import wilson_interval

RESULTS, TABLE, PLOT = "results.json", "table.md", "plot.png"


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended."""

    trial: Trial
    commands: Sequence[str] = ()
    """The commands whose results the trial uses."""
    train_seconds: float | None = None
    """Seconds of the optimizer steps of the trial's run."""
    seconds: float = 0.0
    """Seconds of the measurement."""
    measurement: Measurement = field(default_factory=dict)
    error: str | None = None
    """Why the trial failed, in one line."""


class TrialFiles:
    """The saved measurements of an experiment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trials"

    def read(self, trial: Trial, key: str) -> tuple[float, Measurement] | None:
        """Seconds and measurement of a trial; None if there is none for this key."""
        file = self._folder / f"{trial.name}.json"
        saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return (saved["seconds"], saved["measurement"]) if saved.get("key") == key else None

    def write(self, trial: Trial, key: str, seconds: float, measurement: Measurement) -> None:
        """Save a measurement; an interrupted write leaves the file before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"key": key, "seconds": seconds, "measurement": measurement}
        write_durably(location(self._folder / f"{trial.name}.json"), json.dumps(content))


def measurement_key(kind: Kind, subject: Subject) -> str:
    """Hash of everything that determines a measurement: weights, settings, options, code and inputs.

    The weights count by the version of their file, which changes when it is written again.
    """
    settings = [to_yaml(subject.config), dict(subject.trial.decoding), subject.split, asdict(subject.options)]
    code = Path(inspect.getfile(kind.measure)).read_text(encoding="utf-8")
    parts = [*settings, weights_version(subject.weights), code, kind.inputs(subject)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_version(folder: str) -> list[Any]:
    """Name, size and version of each file of weights; raises ``UserError`` if there are none."""
    files = sorted(model_location(folder).glob("*.safetensors"))
    if not files:
        raise UserError(f"checkpoint={folder}: no such weights; name a folder with safetensors files")
    return [[file.name, *version(file)] for file in files]


def write_results(folder: Path, experiment: Experiment, outcomes: Sequence[TrialOutcome]) -> None:
    """Write ``results.json``: the settings, scores, commands and seconds of every trial."""
    content = {
        "experiment": {
            key: getattr(experiment, key) for key in ("name", "kind", "settings", "grid", "split", "options")
        },
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "trials": [_trial_json(outcome) for outcome in outcomes],
    }
    (folder / RESULTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measured(outcomes: Sequence[TrialOutcome]) -> list[Measured]:
    """The trials that did not fail."""
    return [Measured(outcome.trial, outcome.measurement) for outcome in outcomes if outcome.error is None]


def _trial_json(outcome: TrialOutcome) -> dict[str, Any]:
    trial = outcome.trial
    named = {
        "name": trial.name,
        "varied": trial.varied,
        "settings": trial.overrides,
        "decoding": trial.decoding,
    }
    if outcome.error is not None:
        return {**named, "error": outcome.error}
    rest = {key: value for key, value in outcome.measurement.items() if key != ANSWERS}
    answers = outcome.measurement.get(ANSWERS)
    return {
        **named,
        "checkpoint": trial.checkpoint,
        "commands": list(outcome.commands),
        "train_seconds": outcome.train_seconds,
        "seconds": outcome.seconds,
        **rest,
        **({"scores": score_json(answers)} if answers else {}),
    }


def score_json(answers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores by type of question with their 95 % intervals."""
    return {
        kind: {
            "questions": score.questions,
            "correct": score.correct,
            "accuracy": score.accuracy,
            "interval": wilson_interval(score.correct, score.questions),
        }
        for kind, score in scores(answers).items()
    }
