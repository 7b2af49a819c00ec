"""The layout: modules shadow nothing, imports point one way, class names are unique, files are short."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("platform/lladav", "data", "serve", "train")
MAX_LINES = 400


def modules(root: Path) -> Iterator[Path]:
    """Every module of the packages, relative to the root."""
    for package in PACKAGES:
        yield from (file.relative_to(root) for file in (root / package).rglob("*.py"))


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.ray
def test_tests_that_start_ray_run_one_after_another(request: pytest.FixtureRequest):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("without xdist one process runs all tests, one after another")
    assert request.node.nodeid.endswith("@ray")


def test_platform_is_a_source_root_and_not_a_package(root: Path):
    assert not (root / "platform" / "__init__.py").exists()


def test_import_platform_finds_the_standard_library_in_every_order_of_paths(root: Path):
    program = """
import sys
roots, sys.path[:1] = sys.argv[1:], sys.argv[1:]
import asyncio, platform, uuid
print(platform.__file__, bool(platform.system()))
"""
    for roots in ([root, root / "platform"], [root / "platform", root]):
        done = run(sys.executable, "-c", program, *map(str, roots), cwd=root)
        assert done.returncode == 0, done.stderr
        file, works = done.stdout.split()
        assert not Path(file).is_relative_to(root) or ".venv" in file
        assert works == "True"


@pytest.mark.parametrize("package", ["data", "serve", "train", "platform/lladav"])
def test_every_folder_of_modules_is_a_package(root: Path, package: str):
    folders = {file.parent for file in modules(root) if file.is_relative_to(package)}
    assert all((root / folder / "__init__.py").is_file() for folder in folders)


def test_no_module_shadows_a_standard_or_installed_module(root: Path):
    ours = {Path(package).name for package in PACKAGES}
    installed = set(importlib.metadata.packages_distributions()) - ours
    taken = (installed | set(sys.stdlib_module_names)) - {"__init__", "__main__"}
    assert not [str(file) for file in modules(root) if file.stem in taken]
    assert not [package for package in ours if package in sys.stdlib_module_names]


def test_git_ignores_no_module(root: Path):
    """Ray's upload of a working directory honours .gitignore: an ignored module is missing on the workers."""
    if not shutil.which("git") or run("git", "rev-parse", cwd=root).returncode:
        pytest.skip("not a git checkout")
    names = "\n".join(str(file) for file in modules(root))
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, input=names, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    hidden = subprocess.run(
        command, input="build/x\nruns/x\n", cwd=root, capture_output=True, text=True, check=False
    )
    assert hidden.stdout.split() == ["build/x", "runs/x"]


def test_no_file_has_more_than_400_lines(root: Path):
    files = [*modules(root), *(file.relative_to(root) for file in (root / "tests").rglob("*.py"))]
    long = {
        str(f): n
        for f in files
        if (n := len((root / f).read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long


def test_every_module_has_a_docstring(root: Path):
    without = [
        str(f)
        for f in modules(root)
        if (text := (root / f).read_text()).strip() and not text.startswith('"""')
    ]
    assert not without


def test_no_two_classes_share_a_name(root: Path):
    defined = defaultdict(list)
    for file in [*modules(root), *(f.relative_to(root) for f in (root / "k8s").rglob("*.py"))]:
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                defined[node.name].append(str(file))
    assert not {name: files for name, files in defined.items() if len(files) > 1}


def test_imports_point_one_way_and_have_no_cycles(root: Path):
    """The contracts are in pyproject.toml; one of them forbids cycles between modules and folders."""
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    paths = json.dumps([str(root), str(root / "platform")])
    done = run(sys.executable, "-c", f"import sys; sys.path[:1] = {paths}; {program}", cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
