"""The recipe of the shipped tiny model: ``conf/recipe/NAME.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lladav.config.introspection import choices_hint
from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.config.schema import ModelPart
from lladav.errors import UserError
from train.toy_towers.fit import Fit
from train.toy_towers.lessons import MAKES, Mixture

FOLDER = "recipe"
"""Folder of the recipes in ``conf``."""


@dataclass(frozen=True)
class TrainingPhase:
    """A part of the whole model's training: its lessons, noise, steps and learning rates."""

    lessons: int
    """Number of different lessons."""
    shares: dict[str, float]
    json: float
    bare_values: float
    """Fields of ``Mixture``."""
    min_mask_ratio: float
    """``objective.min_mask_ratio``."""
    steps: int
    batch: int
    """Lessons in a step."""
    adam_lr: float
    muon_lr: float
    weight_decay: float
    decay: float
    """Share of the steps in which the learning rates fall. The number of steps may be changed until then, and
    the same command resumes."""

    @property
    def mixture(self) -> Mixture:
        """The lessons of the phase."""
        return Mixture(self.shares, self.json, self.bare_values)

    @property
    def fit(self) -> Fit:
        """Steps and learning rates of the phase."""
        return Fit(self.steps, self.batch, self.adam_lr, self.muon_lr, self.weight_decay, self.decay)


@dataclass(frozen=True)
class Recipe:
    """How the towers and then the whole model are trained."""

    vision_tower: float
    language_tower: float
    """Lengths of the towers' pretraining, relative to those of ``train/towers.py``."""
    alignment: float
    """Length of the projector's alignment, relative to ``whole_model.ALIGNMENT``."""
    phases: dict[str, TrainingPhase]
    """Phases of the whole model's training, one after another, by name."""
    average: dict[str, float]
    """Shares of phases in the weights: the mean of what they end with (arXiv 2109.01903)."""

    @property
    def towers(self) -> dict[ModelPart, float]:
        """Relative lengths of the towers' pretraining."""
        return {ModelPart.vision: self.vision_tower, ModelPart.language: self.language_tower}


def load_recipe(name: str, conf: Path = CONF) -> Recipe:
    """Read a recipe; raises ``UserError`` for an unknown or missing key and for an unknown kind of lesson."""
    if name not in (known := group_choices(FOLDER, conf)):
        raise UserError(f"recipe={name}: no such recipe{choices_hint(name, known)}")
    file = conf / FOLDER / f"{name}.yaml"
    values = read_yaml(file).get(FOLDER, {})
    _check_keys(values, Recipe, f"{file}: {FOLDER}")
    phases = {key: _phase(each, f"{file}: {FOLDER}.phases.{key}") for key, each in values["phases"].items()}
    _check_known(values["average"], phases, f"{file}: {FOLDER}.average", "phase")
    if not values["average"]:
        raise UserError(f"{file}: {FOLDER}.average: is empty; give phases shares")
    return Recipe(**{**values, "phases": phases})


def _phase(values: Mapping[str, Any], where: str) -> TrainingPhase:
    _check_keys(values, TrainingPhase, where)
    _check_known(values["shares"], MAKES, f"{where}.shares", "kind")
    return TrainingPhase(**values)


def _check_keys(values: Mapping[str, Any], kind: type, where: str) -> None:
    keys = [field.name for field in fields(kind)]
    _check_known(values, keys, where, "key")
    if missing := [key for key in keys if key not in values]:
        raise UserError(f"{where}.{missing[0]}: is missing")


def _check_known(given: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: no such {what}{choices_hint(key, known)}")
