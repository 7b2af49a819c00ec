"""Tests patch nothing that threads of other tests use: a server that one test starts serves other tests too.

Attributes of the project's own modules and classes may be patched. A test that needs another clock, variable
or module passes it to the code under test as a parameter, or runs the code with ``apart``.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = {"data", "k8s", "lladav", "serve", "tests", "train"}
ELSEWHERE = {"apart", "on_ranks", "spawn", "start_processes"}
"""Functions whose argument is a function that runs in another process."""
PATCHES = {"setattr", "delattr", "setitem", "delitem"}
"""Methods of ``pytest.MonkeyPatch`` whose first argument is the patched object."""
EXEMPT = {
    "conftest.py": "sets variables before any thread starts",
    "train/preloaded.py": "imported by a separate process",
    "buckets.py": "sets variables that only S3 clients read",
}
OWN_VARIABLES = "LLADAV_"
"""Prefix of environment variables that only this project reads; tests may set them."""
PROCESS_WIDE = {"chdir", "setenv", "delenv", "syspath_prepend"}
"""Methods of ``pytest.MonkeyPatch`` that always affect the whole process."""
STATE = ("os.environ", "sys.modules", "sys.path", "sys.argv")
PLAIN = (dict, list, set, tuple, str, int, float)
CHANGES = {
    *(f"{name}.{method}" for name in STATE for method in "update clear pop setdefault insert append".split()),
    *("os.chdir", "os.putenv", "os.unsetenv", "os.umask", "signal.signal", "socket.setdefaulttimeout"),
    *("warnings.simplefilter", "warnings.filterwarnings", "locale.setlocale", "unittest.mock"),
}


def test_no_test_patches_state_of_the_whole_process(root: Path) -> None:
    tests = root / "tests"
    programs = {file for file in (tests / "bench").glob("*.py") if not file.name.startswith("test_")}
    programs |= {*(tests / "clients").glob("*.py")}
    files = {*tests.rglob("*.py")} - programs - {tests / name for name in EXEMPT}
    found = [
        f"{file.relative_to(root)}:{line}"
        for file in sorted(files)
        for line in process_wide(file.read_text())
    ]
    assert not found, "patched for the whole process; pass a parameter or use apart"


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(asyncio, "sleep", None)',
        'monkeypatch.setattr("serve.ops.follow_scale.asyncio.sleep", None)',
        'monkeypatch.setattr(follow_scale.asyncio, "sleep", None)',
        'monkeypatch.setattr(Path, "exists", None)',
        'monkeypatch.setitem(sys.modules, "av", None)',
        'monkeypatch.setenv("HOME", "x")',
        "patch.chdir(folder)",
        "asyncio.sleep = None",
        'os.environ["HOME"] = "x"',
        'os.environ |= {"HOME": "x"}',
        "del os.environ['HOME']",
        "os.environ.update(HOME='x')",
        "os.chdir('/')",
        "from unittest import mock",
        "import unittest.mock",
    ],
)
def test_a_patch_of_the_whole_process_is_found(line: str) -> None:
    assert len([*process_wide(f"{IMPORTS}\ndef test(monkeypatch):\n    {line}")]) == 1


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr("serve.ops.follow_scale.reconcile", None)',
        'monkeypatch.setattr(follow_scale, "reconcile", None)',
        'monkeypatch.setattr(Bounds, "max", None)',
        'monkeypatch.setitem(RULES, "name", None)',
        'monkeypatch.setattr(engine, "step", None)',
        'settings.path = "x"',
        'monkeypatch.setenv("LLADAV_CACHE", "x")',
    ],
)
def test_objects_of_the_project_and_of_the_test_may_be_patched(line: str) -> None:
    assert not [*process_wide(f"{IMPORTS}\ndef test(monkeypatch, engine, settings):\n    {line}")]


def test_a_function_that_runs_in_another_process_may_patch() -> None:
    assert not [*process_wide(f"{IMPORTS}\ndef f():\n    os.chdir('/')\ndef test():\n    apart(f)")]


IMPORTS = """
import asyncio, os, sys
from pathlib import Path
from serve.ops import follow_scale
from serve.ops.follow_scale import Bounds
from lladav.decoding.unmasking import RULES
"""


def process_wide(text: str) -> Iterator[int]:
    """Numbers of the lines that change state shared by all threads of the process."""
    tree = ast.parse(text)
    names, skipped = imported(tree), set(run_elsewhere(tree))
    for node in walk(tree, skipped):
        if changes(node, names):
            yield node.lineno


def imported(tree: ast.Module) -> dict[str, str]:
    """Dotted path of each imported name."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.partition(".")[0]
                names[each.asname or first] = each.name if each.asname else first
        if isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def run_elsewhere(tree: ast.Module) -> Iterator[str]:
    """Names of functions passed to a call that runs them in another process."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ELSEWHERE:
            yield from (each.id for each in node.args if isinstance(each, ast.Name))


def walk(node: ast.AST, skipped: set[str]) -> Iterator[Any]:
    """All nodes below ``node``, without the bodies of the functions named in ``skipped``."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef) or child.name not in skipped:
            yield child
            yield from walk(child, skipped)


def changes(node: ast.AST, names: dict[str, str]) -> bool:
    """Whether a node changes state shared by all threads of the process."""
    if isinstance(node, ast.Call):
        return call_changes(node, names)
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = getattr(node, "module", None)
        return any(f"{module}.{each.name}" in CHANGES or each.name in CHANGES for each in node.names)
    if isinstance(node, ast.Assign | ast.Delete):
        return any(is_shared(target, names) for target in node.targets)
    return isinstance(node, ast.AugAssign) and is_shared(node.target, names)


def call_changes(node: ast.Call, names: dict[str, str]) -> bool:
    path = dotted(node.func, names)
    method = path.rpartition(".")[2] if path else getattr(node.func, "attr", "")
    if path is not None:
        return path in CHANGES
    if method in PATCHES and node.args:
        target = node.args[0]
        if isinstance(target, ast.Constant):
            return is_foreign(str(target.value).rpartition(".")[0])
        patched = dotted(target, names)
        return patched is not None and (patched in STATE or is_foreign(patched))
    own = node.args and str(getattr(node.args[0], "value", "")).startswith(OWN_VARIABLES)
    return method in PROCESS_WIDE and not own


def is_shared(target: ast.AST, names: dict[str, str]) -> bool:
    """Whether an assignment to this target changes a foreign module, or ``os.environ`` and the like."""
    if isinstance(target, ast.Subscript):
        return dotted(target.value, names) in STATE
    if not isinstance(target, ast.Attribute):
        return False
    owner = dotted(target.value, names)
    return owner is not None and is_foreign(owner)


def dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """Path of an attribute chain that starts with an imported name; ``None`` for other expressions."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = dotted(node.value, names) if isinstance(node, ast.Attribute) else None
    return owner and f"{owner}.{node.attr}"  # type: ignore[attr-defined]


def is_foreign(path: str) -> bool:
    """Whether an object on the path belongs to Python or another package."""
    first, *rest = path.split(".")
    if first not in PROJECT:
        return True
    thing: Any = importlib.import_module(first)
    for name in rest:
        if not hasattr(thing, name) and isinstance(thing, ModuleType):
            importlib.import_module(f"{thing.__name__}.{name}")
        thing = getattr(thing, name)
        # A table such as a dict belongs to the module that it was found in.
        if not isinstance(thing, PLAIN) and owner_of(thing) not in PROJECT:
            return True
    return False


def owner_of(thing: Any) -> str:
    name = (
        thing.__name__
        if isinstance(thing, ModuleType)
        else getattr(thing, "__module__", type(thing).__module__)
    )
    return name.partition(".")[0]
