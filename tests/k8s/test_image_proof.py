"""``make image-proof`` builds and checks an image; here with a ``docker`` that only pretends to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DOCKER = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
*"image inspect"*) echo "$SIZE" ;;
run*"id -u") echo "$USER_ID" ;;
run*"touch /app/file"*) exit "$WRITABLE" ;;
esac
"""
PIP = """#!/bin/sh
echo "Would install $RESOLVED"
"""
GOOD = {"SIZE": "2400000000", "USER_ID": "1000", "WRITABLE": "0", "RESOLVED": "torch-2.13.0 nvidia-cudnn-9"}


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A folder with the script, and with a ``docker`` and a ``pip`` that only answer."""
    folder = tmp_path / "a project"
    for name, text in {"bin/docker": DOCKER, ".venv/bin/python": PIP}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(root / ".ci" / "image_proof", folder / ".ci")
    (folder / "constraints.txt").write_text("torch==2.13.0\n")
    return folder


def proved(project: Path, *arguments: str, **answers: str) -> subprocess.CompletedProcess[str]:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LOG": str(project / "log"), **GOOD, **answers}
    command = ["sh", str(project / ".ci" / "image_proof"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_good_image(project: Path) -> None:
    done = proved(project, "--build-arg", "BASE=mine:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "size: 2400 MB" in done.stdout
    log = (project / "log").read_text().splitlines()
    [build] = [line for line in log if line.startswith("build")]
    assert "--file k8s/Dockerfile" in build
    assert "--build-arg BASE=mine:1" in build
    runs = [line for line in log if line.startswith("run ")]
    assert all("--read-only" in line and "--cap-drop ALL" in line for line in runs)
    assert any("train/run.py stage=pretrain" in line and "train.max_steps=2" in line for line in runs)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"SIZE": "2600000000"}, "the image has 2600 MB; the limit is 2500"),
        ({"USER_ID": "0"}, "the image does not run as uid 1000"),
        ({"WRITABLE": "1"}, "the root filesystem is writable"),
        ({"RESOLVED": "torch-2.13.0+cpu"}, "pip resolves no CUDA libraries"),
    ],
)
def test_images_that_are_not_good(project: Path, answers: dict[str, str], says: str) -> None:
    done = proved(project, **answers)
    assert done.returncode == 1
    assert f"error: {says}" in done.stderr
