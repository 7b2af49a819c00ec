"""The five steps of the README, on the tiny model and in a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lladav.checkpoint import export, shipped_model
from lladav.config.loader import load
from serve.settings import load as serve_settings
from serve.starting import check_checkpoint
from tests.digits import shared_digits
from tests.hub import cache_model
from tests.lladav.build import noise_image, tiny_model
from tests.pages import blocks, command_lines, section, write_data_set
from tests.train.trainings import finish
from train.trainer.step_log import read_steps

RELEASED = "GSAI-ML/LLaDA-V"
TINY = [
    *("model=tiny", f"model.weights.released={RELEASED}", f"model.tokenizer={RELEASED}"),
    *("stage.global_batch=2", "stage.max_length=1024", "train.max_steps=2", "train.micro_batch=1"),
    "cluster.workers=1",
    "cluster.gpus_per_worker=0",
    *("data.validation.share=0.1", "data.validation.questions=1", "data.validation.answer_tokens=4"),
]
"""What differs from the README: the sizes of model and machine, and a validation with a question."""


@pytest.fixture
def readme(root: Path) -> str:
    return section((root / "README.md").read_text(encoding="utf-8"), "Fine-tune on your own images")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A copy of the code and the settings, to which the README adds a file."""
    for name in ("conf", "data", "platform", "train"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A cache of the hub in which the released model is a tiny one."""
    model = load(["model=tiny", "data=digits"]).model
    export(tiny_model(model), model, tmp_path / "weights", tokenizer=shared_digits() / "tokenizer")
    cache_model(tmp_path / "home", RELEASED, tmp_path / "weights")
    return tmp_path / "home"


def write_pets(folder: Path, readme: str) -> None:
    """The folder of the second step, with six records like the one of the README."""
    [record] = json.loads(*blocks(readme, "json"))
    (folder / "photos").mkdir(parents=True)
    noise_image(60, 40, seed=0).save(folder / "photos" / record["image"])
    (folder / "pets.json").write_text(json.dumps([{**record, "id": str(n)} for n in range(6)]))


def words_of(readme: str, start: str, root: Path) -> list[str]:
    """The arguments of the README's command that begins with ``start``, with its folder in ``root``."""
    [line] = [line for line in command_lines(readme) if line.startswith(start)]
    return shlex.split(line.removeprefix(start).replace("/data/", f"{root}/"))


def run(checkout: Path, environment: dict[str, str], *command: str) -> str:
    """Run Python in the copy of the checkout; return what it prints."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env={**environment, "PYTHONPATH": str(checkout / "platform")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_the_five_steps_of_the_readme_work(checkout: Path, home: Path, readme: str) -> None:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    write_pets(checkout / "pets", readme)
    write_data_set(checkout / "conf", readme)

    overrides = words_of(readme, "python train/run.py", checkout)
    printed = finish(checkout, [*overrides, *TINY], environment)
    assert "5 samples, 2 steps; global batch 2 = 1 x 2 accumulated x 1 workers" in printed
    assert "validation: samples 1, every 100 steps" in printed
    assert re.search(r"done: .*-00000002; lowest validation loss \d+\.\d+ after step 2: ", printed)
    [answer] = read_steps(checkout / "runs" / "finetune-tiny-pets" / "answers.jsonl")
    assert (answer["step"], answer["question"], answer["expected"]) == (2, "What is this?", "A cat.")
    assert f"starts from {RELEASED}" in printed

    export_run = words_of(readme.replace("llada_v_8b", "tiny"), "python train/export.py", checkout)
    assert "step 2 of finetune-tiny-pets" in run(checkout, environment, "train/export.py", *export_run)
    question = words_of(readme, "PYTHONPATH=platform python -m lladav.generate", checkout)
    few = ("--max-tokens", "8", "--block-length", "8", "--steps", "2")
    assert run(checkout, environment, "-m", "lladav.generate", *question, *few)
    [served] = words_of(readme, "make serve ARGS=", checkout)
    check_checkpoint(serve_settings({"model": str(checkout / served.removeprefix("model="))}))


def test_the_tiny_model_is_fine_tuned_from_the_shipped_one(root: Path) -> None:
    released = load(["stage=finetune", "model=tiny", "data=mine"]).model.weights.released
    assert root / str(released) == shipped_model()


def test_the_readme_gets_the_model_that_fine_tuning_starts_from(readme: str) -> None:
    released = load(["model=llada_v_8b", "stage=finetune", "data=mine"]).model
    assert f"`hf download {released.weights.released}`" in readme
    assert released.tokenizer == released.weights.released == RELEASED
