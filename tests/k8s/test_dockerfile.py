"""The Dockerfile's steps work in a clean folder that contains only what ``.dockerignore`` allows.

The tests need no container engine: they copy files as the steps do, let pip resolve without installing, and
run the image's commands with this Python in the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.check import linted

INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$")


def instructions(root: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, with continued lines joined."""
    text = (root / "k8s" / "Dockerfile").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = [
        INSTRUCTION.match(line.strip()) for line in code.replace("\\\n", " ").splitlines() if line.strip()
    ]
    return [(match[1], match[2]) for match in found if match]


def of_kind(root: Path, keyword: str) -> list[str]:
    return [rest for found, rest in instructions(root) if found == keyword]


@pytest.fixture(scope="module")
def context(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context: everything is ignored but the exceptions in ``.dockerignore``."""
    folder = tmp_path_factory.mktemp("context")
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    for name in (line[1:] for line in lines if line.startswith("!")):
        source, target = root / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


@pytest.fixture(scope="module")
def image(root: Path, context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's WORKDIR after all COPY instructions."""
    folder = tmp_path_factory.mktemp("app")
    for copied in of_kind(root, "COPY"):
        *sources, target = copied.split()
        for name in sources:
            into = folder / target
            if (context / name).is_dir():
                shutil.copytree(context / name, into)
            else:
                shutil.copy(context / name, into / Path(name).name if target.endswith("/") else into)
    return folder


@pytest.fixture(scope="module")
def environment(root: Path, image: Path) -> dict[str, str]:
    """The variables of ENV, with the copy's folder instead of the image's."""
    pairs = re.findall(r"(\w+)=(\S+)", " ".join(of_kind(root, "ENV")))
    values = {name: value.replace("/app", str(image)) for name, value in pairs if name != "HOME"}
    return {**os.environ, **values, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_hadolint_finds_nothing() -> None:
    assert [*linted()] == []


def test_the_base_image_is_pinned_and_slim_and_the_user_is_not_root(root: Path) -> None:
    base, _ = of_kind(root, "ARG")
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+", base)
    assert of_kind(root, "FROM") == ["$BASE"]
    assert of_kind(root, "USER") == ["1000"]
    assert of_kind(root, "WORKDIR") == ["/app"]


def test_system_packages_exist(root: Path) -> None:
    [step] = [step for step in of_kind(root, "RUN") if "apt-get" in step]
    names = re.search(r"--no-install-recommends ([\w+ .-]+) &&", step)
    assert names
    if shutil.which("apt-cache") is None:
        pytest.skip("apt-cache is missing")
    for name in names[1].split():
        known = subprocess.run(["apt-cache", "show", name], capture_output=True, check=False)
        assert known.returncode == 0, name


def pip_steps(root: Path) -> Iterator[tuple[str, str]]:
    """What each step with pip installs, with this machine's package index, and what it then removes."""
    for step in of_kind(root, "RUN"):
        if "pip install" in step:
            install, and_, remove = step.partition("&& find ")
            yield re.sub(r'--(extra-)?index-url "?\S+', "", install), and_.removeprefix("&& ") + remove


@pytest.mark.slow
def test_all_pins_exist_and_are_compatible(root: Path, image: Path, environment: dict[str, str]) -> None:
    """pip can resolve ``constraints.txt``. torch is installed already, as in its own layer of the image."""
    [(torch, _), (others, _)] = pip_steps(root)
    assert "grep '^torch=='" in torch
    dry = "python -m pip install --dry-run --quiet --report report.json"
    command = others.replace("pip install", dry)
    done = subprocess.run(
        ["sh", "-c", command], cwd=image, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pip_steps_remove_what_pods_do_not_need_and_nothing_else(root: Path, tmp_path: Path) -> None:
    """In a folder of packages that the ``python`` of the commands names."""
    kept = {"jinja2/tests.py", "numpy/testing/utils.py", "torch/bin/torch_shm_manager", "ray/data/read.py"}
    gone = {
        "pandas/tests/test_csv.py",
        "torch/test/test_nn.py",
        "torch/bin/test_api",
        "ray/jars/ray_dist.jar",
    }
    packages, python = tmp_path / "packages", tmp_path / "bin" / "python"
    for file in (python, *(packages / name for name in kept | gone)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\necho '{packages}'\n")
    python.chmod(0o755)
    path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    for _, remove in pip_steps(root):
        subprocess.run(["sh", "-c", remove.partition("&& rm requirements.py")[0]], env=path, check=True)
    left = {str(each.relative_to(packages)) for each in packages.rglob("*") if each.is_file()}
    assert left == kept


@pytest.mark.parametrize(
    "command",
    [
        ("python", "train/run.py", "stage=vw", "model=llada_v_8b", "data=llava", "print=true"),
        ("python", "train/run.py", "--help"),
        ("python", "train/export.py", "--help"),
        ("python", "train/towers.py", "--help"),
        ("python", "-m", "serve.follow_scale", "--help"),
        ("python", "-c", "import serve.app"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_commands_of_pods_start(
    image: Path, environment: dict[str, str], command: tuple[str, ...]
) -> None:
    done = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_byte_code_can_be_compiled(image: Path, environment: dict[str, str], root: Path) -> None:
    [step] = [step for step in of_kind(root, "RUN") if "compileall" in step]
    command = step.partition("&&")[2].strip()
    done = subprocess.run(["sh", "-c", command], cwd=image, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
