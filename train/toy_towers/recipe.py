"""The recipe of the shipped tiny model: ``conf/recipe/NAME.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from lladav.config.introspection import choices_hint
from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.config.schema import ModelPart
from lladav.errors import UserError
from train.toy_towers.fit import Fit
from train.toy_towers.lessons import MAKES

FOLDER = "recipe"
"""Folder of the recipes in ``conf``."""


@dataclass(frozen=True)
class Recipe:
    """How the towers and then the whole model are trained."""

    vision_tower: float
    language_tower: float
    """Lengths of the towers' pretraining, relative to those of ``train/towers.py``."""
    alignment: float
    """Length of the projector's alignment, relative to ``whole_model.ALIGNMENT``."""
    lessons: int
    """Number of different lessons."""
    steps: int
    batch: int
    """Lessons in a step."""
    adam_lr: float
    muon_lr: float
    weight_decay: float
    decay: float
    """Share of the steps in which the learning rates fall. The number of steps may be changed until then, and
    the same command resumes."""
    shares: dict[str, float]
    """Weights of the kinds of lessons, keys of ``lessons.MAKES``."""

    @property
    def towers(self) -> dict[ModelPart, float]:
        """Relative lengths of the towers' pretraining."""
        return {ModelPart.vision: self.vision_tower, ModelPart.language: self.language_tower}

    @property
    def fit(self) -> Fit:
        """Steps and learning rates of the whole model."""
        return Fit(self.steps, self.batch, self.adam_lr, self.muon_lr, self.weight_decay, self.decay)


def load_recipe(name: str, conf: Path = CONF) -> Recipe:
    """Read a recipe; raises ``UserError`` for an unknown or missing key and for an unknown kind of lesson."""
    if name not in (known := group_choices(FOLDER, conf)):
        raise UserError(f"recipe={name}: no such recipe{choices_hint(name, known)}")
    file = conf / FOLDER / f"{name}.yaml"
    values = read_yaml(file).get(FOLDER, {})
    keys = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in keys:
            raise UserError(f"{file}: recipe.{key}: no such key{choices_hint(key, keys)}")
    if missing := [key for key in keys if key not in values]:
        raise UserError(f"{file}: recipe.{missing[0]}: is missing")
    for kind in values["shares"]:
        if kind not in MAKES:
            raise UserError(f"{file}: recipe.shares.{kind}: no such kind{choices_hint(kind, MAKES)}")
    return Recipe(**values)
