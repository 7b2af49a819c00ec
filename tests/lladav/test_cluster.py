"""A private Ray: jobs find the packages, two run side by side, and no process remains."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lladav.cluster import Head, local_head

pytestmark = pytest.mark.ray

DRIVER = """
import os, sys
sys.path[:1] = [sys.argv[1], sys.argv[1] + "/platform"]
import ray
from lladav.cluster import check_gpus, connect
from lladav.config.schema import ClusterConfig
from lladav.errors import UserError

@ray.remote
def packages():
    import lladav.config.schema, data, train
    return [module.__file__ for module in (lladav.config.schema, data, train)]

with connect(ClusterConfig(workers=2)):
    print("PACKAGES", *ray.get(packages.remote()), sep="|")
    print("CPUS", ray.cluster_resources()["CPU"], sep="|")
    try:
        check_gpus(1000.5, "engine.gpus")
    except UserError as error:
        print("GPUS", error, sep="|")
    socket = ray.nodes()[0]["ObjectStoreSocketName"]
print("FOLDER", socket.rpartition("/session_")[0], sep="|")
"""

HOLDER = """
import sys, time
sys.path[:1] = [sys.argv[1] + "/platform"]
from lladav.cluster import local_head
with local_head(cpus=1) as head:
    print(head.folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray that does not find the packages by itself."""
    with local_head(cpus=1, variables={"PYTHONPATH": ""}) as running:
        yield running


def python_below(folder: Path) -> Path:
    """This Python under a path in ``folder``, as if the virtual environment were there."""
    (folder / ".venv").parent.mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder / ".venv" / "bin" / "python"


def processes_of(folder: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter() if str(folder) in environment_of(p).values()]


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def said(output: str, name: str) -> list[str]:
    line = next((line for line in output.splitlines() if line.startswith(f"{name}|")), output)
    return line.split("|")[1:]


def packages_in(root: Path) -> list[str]:
    return [
        str(root / file)
        for file in ("platform/lladav/config/schema.py", "data/__init__.py", "train/__init__.py")
    ]


def test_a_job_finds_the_packages_on_the_head_that_runs_it(head: Head, root: Path, tmp_path: Path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--"]
    command = [*submit, "python", str(script), str(root)]
    done = subprocess.run(command, env=head.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done.stdout, "PACKAGES") == packages_in(root)
    assert said(done.stdout, "CPUS") == ["1.0"]


def test_without_an_address_a_private_ray_starts_beside_another(head: Head, root: Path, tmp_path: Path):
    copy = tmp_path / "a folder with spaces"
    python = python_below(copy)
    for package in ("platform/lladav", "data", "train"):
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(python), "-c", DRIVER, str(copy)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said(done.stdout, "PACKAGES") == packages_in(copy)
    assert float(*said(done.stdout, "CPUS")) >= 3
    assert said(done.stdout, "GPUS")[0].startswith(
        "engine.gpus: 1000.5 GPUs are needed and this machine has "
    )
    assert not Path(*said(done.stdout, "FOLDER")).exists()
    assert processes_of(head.folder)


def test_a_head_leaves_no_processes_when_its_parent_is_terminated(root: Path, tmp_path: Path):
    command = [str(python_below(tmp_path / "a folder with spaces")), "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        folder = Path(holder.stdout.readline().strip())
        assert processes_of(folder)
        descendants = psutil.Process(holder.pid).children(recursive=True)
        holder.send_signal(signal.SIGTERM)
        holder.communicate(timeout=60)
    assert not processes_of(folder)
    assert not [p for p in descendants if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
