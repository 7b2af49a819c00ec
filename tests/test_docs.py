"""The documentation: links lead somewhere, commands parse, and the walks name functions that exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from data.records.parsing import parse as parse_record
from lladav.__main__ import COMMANDS
from lladav.config.loader import CONF, expand_stages, load
from tests.pages import blocks, command_lines, write_data_set
from train.benchmarks.task_model import TaskModelArguments
from train.benchmarks.task_settings import SettingsLayer, file_layer, resolve
from train.evaluate import take_schema, take_split
from train.experiments.definition import load_experiment
from train.export import parse as parse_export

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "k8s" / "README.md"],
    key=lambda page: page.as_posix(),
)
README_MAX_LINES, WALK_MAX_HOPS = 180, 20

LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`((?:python|make|pytest|lladav|ray job submit) [^`]+)`")
PATH = re.compile(r"`((?:platform|data|train|serve|conf|k8s|tests|docs)/[\w./*-]*)`")
EXAMPLES = {
    "conf/experiment/NAME.yaml",
    "conf/stage/NAME.yaml",
    "conf/model/NAME.yaml",
    "platform/lladav/X/",
}
"""Paths in the pages that stand for files of a reader."""
NAME = re.compile(r"`([A-Z]\w*[a-zA-Z](?:\.\w+)?)`")
HOP = re.compile(r"^\| *\d+ *\| *`([^`]+)` *\| *`([^`]+)` *\|", re.MULTILINE)


class Command(NamedTuple):
    """A command of a page, split as a shell would."""

    page: str
    words: list[str]


def commands() -> Iterator[Command]:
    """Every command in the blocks and in the inline code of the pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in [*command_lines(text), *INLINE.findall(text)]:
            try:
                words = shlex.split(line.replace("...", ""), comments=True)
            except ValueError:  # a drawing
                continue
            if words:
                yield Command(page.name, without_prefix(words))


def without_prefix(words: list[str]) -> list[str]:
    """The command itself, without variables, the path of the interpreter and ``ray job submit --``."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:4] == ["ray", "job", "submit", "--"]:
        words = words[4:]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else ["true"]


def chosen(*start: str) -> list[Command]:
    found = [command for command in commands() if command.words[: len(start)] == [*start]]
    assert found
    return found


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings files, with the data set that the README describes."""
    folder = tmp_path_factory.mktemp("docs") / "conf"
    shutil.copytree(CONF, folder)
    write_data_set(folder, (ROOT / "README.md").read_text(encoding="utf-8"))
    return folder


def anchors(page: Path) -> set[str]:
    """Anchors of the headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_paths_exist(name: str) -> None:
    paths = PATH.findall((ROOT / name).read_text(encoding="utf-8"))
    assert [path for path in paths if not any(ROOT.glob(path)) and path not in EXAMPLES] == []


def test_the_map_of_the_code_has_every_package() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {
        module.parent.relative_to(ROOT).as_posix()
        for package in ("platform/lladav", "data", "serve", "train")
        for module in ROOT.glob(f"{package}/*/*.py")
    }
    assert [folder for folder in folders if f"`{folder}/`" not in page] == []


def test_names_in_the_instructions_for_contributors_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in ("platform", "data", "serve", "train")
        for file in (ROOT / folder).rglob("*.py")
    )
    names = {part for name in NAME.findall(page) for part in name.split(".")}
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_MAX_LINES


@pytest.mark.parametrize("script", ["run", "evaluate", "towers"])
def test_settings_of_training_commands_are_valid(script: str, conf: Path) -> None:
    for page, words in chosen("python", f"train/{script}.py"):
        overrides = [word for word in words[2:] if word not in ("--help", "print=true")]
        if script == "evaluate":
            _, overrides = take_schema(take_split(overrides)[1])
        for each in expand_stages(overrides, conf):
            assert load(each, conf), page


def test_arguments_of_experiments_are_valid() -> None:
    for page, words in chosen("python", "train/experiment.py"):
        arguments = [word for word in words[2:] if word not in ("--help", "print=true")]
        assert not arguments or load_experiment(arguments).trials(), page


def test_arguments_of_the_export_are_valid() -> None:
    for _, words in chosen("python", "train/export.py"):
        assert parse_export(words[2:])


def test_scripts_tests_modules_and_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, words in commands():
        match words:
            case ["make", target, *_]:
                assert target in targets, (page, words)
            case ["lladav", name, *_]:
                assert name in {*COMMANDS, "COMMAND", "--help"}, (page, words)
            case ["python", "-m", "lmms_eval", *_]:
                pass  # installed in an environment of its own
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), (page, words)
            case ["python", script, *_]:
                assert (ROOT / script).is_file(), (page, words)
            case ["pytest", *arguments]:
                paths = [a.partition("::")[0] for a in arguments if a.startswith("tests/")]
                assert all((ROOT / path).exists() for path in paths), (page, words)


def test_arguments_of_our_model_of_lmms_eval_are_valid() -> None:
    for _, words in chosen("python", "-m", "lmms_eval", "--model", "lladav"):
        text = words[words.index("--model_args") + 1]
        given = TaskModelArguments.of(dict(each.split("=", 1) for each in text.split(",")))
        layers = [SettingsLayer("model_args", given.decoding)]
        for task in words[words.index("--tasks") + 1].split(","):
            assert resolve([file_layer(str(given.settings), task), *layers]).options


def test_flags_of_benchmarks_exist() -> None:
    for page, words in commands():
        if words[0] == "python" and words[1].startswith("tests/bench/"):
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            for flag in (word for word in words[2:] if word.startswith("--")):
                assert f'"{flag}"' in source or f'"{flag[2:]}"' in source, (page, words)


def test_the_record_of_the_readme_is_a_record() -> None:
    (text,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "json")
    (values,) = json.loads(text)
    record = parse_record(values)
    assert record.media == ["cat.jpg"]
    assert values["id"] == record.id


def walks() -> dict[str, list[tuple[str, str]]]:
    """File and function of each hop, by the heading of the walk."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    found = {section.partition("\n")[0]: HOP.findall(section) for section in sections}
    return {title: hops for title, hops in found.items() if hops}


def test_the_two_walks_are_short() -> None:
    assert len(walks()) == 2
    assert all(len(hops) <= WALK_MAX_HOPS for hops in walks().values())


@pytest.mark.parametrize("walk", walks())
def test_functions_of_a_walk_exist(walk: str) -> None:
    missing = [f"{file}: {name}" for file, name in walks()[walk] if name not in functions(ROOT / file)]
    assert not missing


def functions(file: Path) -> set[str]:
    """Functions of a module, methods as ``Class.method``, and its classes."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {node.name, *(f"{node.name}.{method.name}" for method in methods)}
    return found
