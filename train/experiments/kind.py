"""What a kind of experiment is: how one trial is measured, and how the trials become tables and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data.digits.questions import Split
from lladav.config.introspection import choices_hint
from lladav.config.schema import Config
from lladav.errors import UserError
from train.experiments.definition import Experiment, Trial

ANSWERS = "answers"
"""Rows of a measurement, one per question (id, type, answer, correct). ``results.json`` has their scores."""

Measurement = Mapping[str, Any]
"""What was measured in one trial, as JSON."""


@dataclass(frozen=True)
class Subject:
    """What a measurement is about. It travels to a Ray task, so its paths are absolute."""

    trial: Trial
    config: Config
    weights: str
    """Folder or URI of the model in the LLaDA-V layout."""
    split: Split
    options: Any
    """Options of the kind, an instance of ``Kind.options``."""


@dataclass(frozen=True)
class Measured:
    """A trial and its measurement."""

    trial: Trial
    measurement: Measurement


@dataclass(frozen=True)
class Kind:
    """The functions of a kind of experiment."""

    measure: Callable[[Subject], Measurement]
    """Runs in a Ray task."""
    inputs: Callable[[Subject], str]
    """Hash of what determines a measurement besides weights, settings and options; runs in the driver."""
    tables: Callable[[Sequence[Measured]], str]
    """The results as Markdown."""
    draw: Callable[[Sequence[Measured], Path], None]
    """Plots the results to a PNG file."""
    options: type
    """A dataclass of the kind's options; every field has a default."""
    timed: bool = False
    """Whether speed is measured; such trials run one after another."""

    def options_of(self, experiment: Experiment) -> Any:
        """The experiment's options; raises ``UserError`` for an unknown one."""
        known = [entry.name for entry in fields(self.options)]
        for key in experiment.options:
            if key not in known:
                raise UserError(f"experiment.options.{key}: unknown key{choices_hint(key, known)}")
        return self.options(**experiment.options)
