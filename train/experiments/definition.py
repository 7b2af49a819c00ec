"""An experiment as data: ``conf/experiment/NAME.yaml`` and the overrides of the command line.

A trial is one point of the experiment's grid. Its settings are overrides of ``train/run.py``, except for
``checkpoint`` (a folder of weights that is measured as it is, without training) and ``decoding.KEY`` (an
argument of ``DecodingOptions.for_chat``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from data.digits.questions import Split
from lladav.config.cli import key_values
from lladav.config.comparison import is_non_semantic
from lladav.config.introspection import choices_hint, format_value
from lladav.config.loader import ALL_STAGES, CONF, GROUPS, load, read_yaml, run_name
from lladav.config.schema import Config
from lladav.config.setting import SettingInfo
from lladav.errors import UserError

FOLDER = "experiment"
"""Folder of the experiments in ``conf``."""

CHECKPOINT, DECODING = "checkpoint", "decoding."
"""Settings of a trial that are not settings of a training run."""

Settings = Mapping[str, str]
"""Text of each value by dotted key, as on the command line."""


@dataclass(frozen=True)
class Trial:
    """One point of the grid."""

    name: str
    varied: Mapping[str, Any]
    """The values of the grid at this point, by key."""
    settings: Settings
    """Overrides of ``train/run.py``, with the name of the run."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``DecodingOptions.for_chat`` that replace those of ``train/evaluate.py``."""
    checkpoint: str | None = None
    """Folder or URI of weights to measure; None: the run that the settings describe, trained if necessary."""

    @property
    def overrides(self) -> list[str]:
        """The settings as arguments of ``train/run.py``."""
        return as_arguments(self.settings)

    def config(self) -> Config:
        """The settings of the trial's run; raises ``UserError`` for an invalid one."""
        return load(self.overrides)


@dataclass(frozen=True)
class Experiment:
    """What an experiment measures, and over which settings."""

    name: str
    """Name of the results' folder, and a part of the runs' names."""
    kind: str
    """What is measured and drawn: a name in ``train.experiments.kinds.KINDS``."""
    settings: Settings
    """Settings of all trials."""
    grid: Mapping[str, Sequence[Any]]
    """Values by key; there is a trial for each combination. A value that is a mapping has several settings;
    its key in the grid is a name for them."""
    split: Split = Split.test
    """The held-out questions that are asked."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the kind."""

    def trials(self) -> list[Trial]:
        """A trial for each combination of the grid's values, in order.

        Raises ``UserError`` if two of them have the same name.
        """
        combinations = itertools.product(*self.grid.values())
        points = [dict(zip(self.grid, values, strict=True)) for values in combinations]
        trials = [self._trial(_settings_of(point)) for point in points]
        names = [trial.name for trial in trials]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(
                f"experiment {self.name}: two trials have the name {twice}; change experiment.grid"
            )
        return trials

    def _trial(self, varied: dict[str, Any]) -> Trial:
        merged = {**self.settings, **{key: format_value(value) for key, value in varied.items()}}
        decoding = {
            k.removeprefix(DECODING): yaml.safe_load(v) for k, v in merged.items() if k.startswith(DECODING)
        }
        own = {k: v for k, v in merged.items() if k != CHECKPOINT and not k.startswith(DECODING)}
        name = "-".join(map(_label, varied, varied.values())) or self.name
        trial = Trial(name, varied, own, decoding, merged.get(CHECKPOINT))
        return trial if trial.checkpoint else replace(trial, settings={**own, **self._run_name(varied, own)})

    def _run_name(self, varied: Mapping[str, Any], settings: Settings) -> Settings:
        """``train.run`` of a trial; none if its run is the ordinary run of its stage, model and data."""
        if all(is_of_every_run(key) for key in settings):
            return {}
        labels = [
            _label(key, value) for key, value in varied.items() if is_of_training(key) and key not in GROUPS
        ]
        name = "-".join([self.name, *labels, run_name(load(as_arguments(settings)))])
        if problem := SettingInfo(is_file_name=True).problem(name):
            raise UserError(f"experiment {self.name}: the run's name {name} is {problem}")
        return {"train.run": name}


def load_experiment(arguments: Sequence[str], conf: Path = CONF) -> Experiment:
    """The experiment that ``experiment=NAME`` names, changed by the other arguments.

    ``experiment.KEY=VALUE`` sets a key of the file, as in ``experiment.grid.train.seed=[1,2]``; other
    arguments are settings of all trials. Raises ``UserError`` for an unknown name or key.
    """
    given = key_values(arguments)
    name = given.pop(FOLDER, "")
    if name not in (known := experiment_names(conf)):
        raise UserError(f"experiment={name}: no such experiment{choices_hint(name, known)}")
    file = conf / FOLDER / f"{name}.yaml"
    values: dict[str, Any] = {"name": name, **_section(file)}
    settings = key_values(values.pop("settings", []))
    for key, text in given.items():
        if key.startswith(f"{FOLDER}."):
            _set(values, key.removeprefix(f"{FOLDER}."), text)
        else:
            settings[key] = text
    return _checked(Experiment(**_known(values, file), settings=settings))


def experiment_names(conf: Path = CONF) -> list[str]:
    """The names of the experiments, sorted."""
    return sorted(file.stem for file in (conf / FOLDER).glob("*.yaml"))


def is_of_every_run(key: str) -> bool:
    """Whether a setting also applies to the runs that a trial starts from.

    These are ordinary runs that trials and commands share. So they take the choices of groups, the folders of
    weights, and settings that no result depends on.
    """
    shared = key in GROUPS or key.startswith("model.weights.") or is_non_semantic(key)
    return shared and key != "train.run"


def is_of_training(key: str) -> bool:
    """Whether a key of the grid is a setting of the training run."""
    return key != CHECKPOINT and not key.startswith(DECODING)


def as_arguments(settings: Settings) -> list[str]:
    """The settings as arguments of a command."""
    return [f"{key}={value}" for key, value in settings.items()]


def _settings_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """The settings at a point of the grid, those of mappings included."""
    groups = [value if isinstance(value, Mapping) else {key: value} for key, value in point.items()]
    return {key: value for group in groups for key, value in group.items()}


def _section(file: Path) -> dict[str, Any]:
    values = read_yaml(file).get(FOLDER)
    if not isinstance(values, dict):
        raise UserError(f"{file}: needs a section {FOLDER}")
    return values


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Set a key of the file; the names in ``grid`` and ``options`` may contain dots."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{FOLDER}.{key}={text}: not a YAML value; quote it") from None
    section, _, name = key.partition(".")
    if name and section in ("grid", "options"):
        values[section] = {**values.get(section, {}), name: value}
    else:
        values[key] = value


def _known(values: dict[str, Any], file: Path) -> dict[str, Any]:
    names = [entry.name for entry in fields(Experiment) if entry.name != "settings"]
    for key in values:
        if key not in names:
            raise UserError(f"{file.name}: {FOLDER}.{key}: unknown key{choices_hint(key, names)}")
    if "kind" not in values:
        raise UserError(f"{file.name}: {FOLDER}.kind: needs a value, as in kind: accuracy")
    for key in ("grid", "options"):
        if not isinstance(values.setdefault(key, {}), Mapping):
            raise UserError(f"{file.name}: {FOLDER}.{key}: must be names with values")
    return values


def _checked(experiment: Experiment) -> Experiment:
    """Raise ``UserError`` for a value of the wrong form, and give ``split`` its type."""
    for key, values in experiment.grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{FOLDER}.grid.{key}={format_value(values)}: must be a list, as in [1,2]")
    if "train.run" in {**experiment.settings, **experiment.grid}:
        raise UserError("train.run: trials have their own names; set experiment.name")
    if ALL_STAGES in (experiment.settings.get("stage"), *experiment.grid.get("stage", [])):
        raise UserError("stage=all: a trial is one stage; set experiment.grid.stage=[si,ov]")
    if experiment.split not in list(Split):
        raise UserError(
            f"{FOLDER}.split={experiment.split}: no such choice{choices_hint(experiment.split, Split)}"
        )
    return replace(experiment, split=Split(experiment.split))


def _label(key: str, value: Any) -> str:
    """The part of a trial's name for one value: the value, after the key's last name if it is a number."""
    text = re.sub(r"[^\w.+]+", "_", format_value(value)).strip("_")
    return text if isinstance(value, str) else f"{key.rpartition('.')[2]}-{text}"
