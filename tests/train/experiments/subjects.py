"""Untrained models and images to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.digits.questions import Split
from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from tests.digits import shared_digits
from tests.lladav.build import noise_image
from train.experiments.definition import Trial, load_experiment
from train.experiments.kind import Subject
from train.experiments.kinds import kind_named


def digits_config() -> Config:
    """The tiny model on the shortened built-in data."""
    root = shared_digits()
    folders = [f"data.root={root}", f"model.tokenizer={root}/tokenizer"]
    return load(["stage=si", "model=tiny", "data=digits", *folders])


def untrained(config: Config, folder: Path, **changes: Any) -> Path:
    """A folder with the weights of a new model; ``changes`` are fields of its config."""
    model = LLaDAV(replace(config.model, **changes))
    initialize(model, seed=0)
    export(model, model.config, folder, tokenizer=config.model.tokenizer)
    return folder


def subject(
    name: str,
    config: Config,
    weights: Path | str = "",
    decoding: Mapping[str, Any] | None = None,
    **options: Any,
) -> Subject:
    """What a trial of an experiment measures, with these options of its kind."""
    experiment = replace(load_experiment([f"experiment={name}"]), options=options)
    trial = Trial("trial", {}, {}, decoding or {}, str(weights))
    chosen = kind_named(experiment.kind).options_of(experiment)
    return Subject(trial, config, str(weights), Split.validation, chosen)


def a_folder_of_images(parent: Path) -> Path:
    """Three images, one of them in a subfolder, and a file that is none."""
    folder = parent / "images"
    (folder / "more").mkdir(parents=True)
    for name, size in {"a.png": (40, 40), "b.JPG": (80, 40), "more/c.webp": (30, 60)}.items():
        noise_image(*size).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder
