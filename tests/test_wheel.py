"""The wheel holds the data files of its packages, and its commands run outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lladav.__main__ import COMMANDS, main
from lladav.checkpoint import export
from lladav.inputs.chat import ChatTokenizer
from tests.lladav.build import tiny_config, tiny_model
from tests.train.trainings import Trainings
from train.trainer.step_log import LOG, read_steps

Command = Callable[..., subprocess.CompletedProcess[str]]

PACKAGES = {
    "platform/lladav": "lladav",
    "data": "data",
    "serve": "serve",
    "train": "train",
    "conf": "lladav/conf",
    "models": "lladav/models",
}

ALL_HELP = """
import contextlib, importlib, io, sys
from lladav.__main__ import COMMANDS, main

for name, command in COMMANDS.items():
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([name, "--help"])
    file = importlib.import_module(command.module).__file__
    print(name, file, len(output.getvalue()), sep="|")
"""

MODULES_OF_HELP = """
import sys
from lladav.__main__ import main
main(["--help"])
print(sorted({"torch", "ray", "omegaconf"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (built,) = folder.glob("lladav-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The wheel installed into a folder of its own; dependencies come from this environment."""
    target = wheel.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture
def lladav(site: Path, tmp_path: Path) -> Command:
    """The installed command, run in an empty folder."""
    return lambda *arguments: run(site, tmp_path, str(site / "bin" / "lladav"), *arguments)


def run(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_its_packages_and_nothing_else(root: Path, wheel: Path) -> None:
    expected = {
        f"{package}/{file.relative_to(root / folder).as_posix()}"
        for folder, package in PACKAGES.items()
        for file in (root / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


def test_help_lists_the_commands_without_loading_torch(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "-c", MODULES_OF_HELP)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("[]\n")


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian: no such command; did you mean train? (choices: ")


@pytest.mark.slow
def test_every_command_prints_its_help_from_the_installed_package(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "-c", ALL_HELP)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in rows] == list(COMMANDS)
    assert all(Path(file).is_relative_to(site) and int(length) > 80 for _, file, length in rows)


def test_settings_come_from_the_installed_files(lladav: Command) -> None:
    done = lladav("train", "stage=vw", "print=true")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["stage"]["name"] == "vw"
    refused = lladav("train", "stage=vww")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: stage=vww: no such stage; did you mean vw?")


def test_keys_are_made(lladav: Command) -> None:
    done = lladav("keys", "alice")
    assert done.returncode == 0, done.stderr
    assert "name: alice" in done.stdout


@pytest.mark.slow
def test_a_model_is_exported_and_answers(lladav: Command, golden: Any, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(golden.folder / "tokenizer")
    config = replace(tiny_config(vocab_size=tokenizer.vocab_size), tokens=tokenizer.ids)
    export(tiny_model(config), config, str(tmp_path / "model"), tokenizer=golden.folder / "tokenizer")
    exported = lladav("export", "run=model", "out=exported")
    assert exported.returncode == 0, exported.stderr
    answered = lladav(
        "generate", "--model", "exported", "--max-tokens", "4", "--device", "cpu", "What is this?"
    )
    assert answered.returncode == 0, answered.stderr
    assert "4 forwards" in answered.stderr


@pytest.mark.slow
def test_the_shipped_model_answers_without_a_name(lladav: Command) -> None:
    answered = lladav("generate", "--device", "cpu", "What is 3 + 4?")
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout == "7\n"


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_train_with_the_installed_packages(root: Path, lladav: Command, tmp_path: Path) -> None:
    settings = Trainings(root, tmp_path).overrides("installed", "train.max_steps=1")
    done = lladav("train", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_steps(tmp_path / "runs" / "installed" / LOG)) == 1
