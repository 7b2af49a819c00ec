"""The model of LMMs-Eval against the documented part of its interface; ``make lmms-eval`` runs LMMs-Eval."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lladav.errors import UserError
from tests.apart import apart
from tests.lladav.build import noise_image

MODEL = "train.benchmarks.lmms_eval_model"


@dataclass
class FakeInstance:
    """A request with the fields that LMMs-Eval documents for a simple model."""

    args: tuple[Any, ...]


@dataclass
class FakeManifest:
    model_id: str
    simple_class_path: str


class FakeModel:
    """The base class of models."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@dataclass
class Seen:
    """What a caller of the model sees."""

    answers: list[tuple[str, int]] = field(default_factory=list)
    logged: list[tuple[Any, ...]] = field(default_factory=list)
    printed: str = ""
    errors: list[str] = field(default_factory=list)
    is_simple: bool = False
    manifest: tuple[str, str] = ("", "")


def requests(**settings: Any) -> list[FakeInstance]:
    return [
        FakeInstance((f"What is {n}?", settings, lambda document: document["media"], n, "mme", "test"))
        for n in range(3)
    ]


def media_of_documents(folder: Path) -> list[Any]:
    """One image, a nested list of images, and a video, as tasks give them."""
    one, other = noise_image(30, 20), noise_image(30, 20, seed=1)
    one.save(clip := folder / "clip.gif", save_all=True, append_images=[other])
    return [[one], [[one, other]], [{"type": "video", "url": str(clip)}]]


def error_of(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    return str(caught.value)


def used(folder: Path, plugin: str) -> Seen:
    """Use the model as LMMs-Eval does, with modules in the place of LMMs-Eval's; call it with ``apart``."""
    seen = Seen()
    contents: dict[str, dict[str, Any]] = {
        "lmms_eval.api.model": {"lmms": FakeModel},
        "lmms_eval.api.instance": {
            "GenerationResult": lambda text, token_counts: (text, token_counts),
            "TokenCounts": lambda output_tokens: output_tokens,
        },
        "lmms_eval.models.registry_v2": {"ModelManifest": FakeManifest},
        "lmms_eval.models.model_utils.gen_metrics": {"log_metrics": lambda *args: seen.logged.append(args)},
    }
    for name, members in contents.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    module, _, function = plugin.partition(":")
    manifest = getattr(import_module(module), function)()
    seen.manifest = (manifest.model_id, manifest.simple_class_path)
    kind = import_module(MODEL).LMMsEvalModel
    seen.is_simple = kind.is_simple
    arguments = {"model": str(folder), "batch_size": "2", "dtype": "float32", "gen_length": 8}
    model = kind(max_batch_size=None, device=None, **arguments)
    model.task_dict = {"mme": {"test": [{"media": each} for each in media_of_documents(folder)]}}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        seen.answers = model.generate_until(
            requests(max_new_tokens=1024, until=["\n\n"], temperature=0, top_p=0)
        )
    seen.printed = output.getvalue()
    seen.errors = [
        error_of(model.generate_until, requests(num_beams=3)),
        error_of(model.loglikelihood, requests()),
        error_of(model.generate_until_multi_round, requests()),
    ]
    os.environ["WORLD_SIZE"] = "2"
    seen.errors.append(error_of(kind, model="folder"))
    return seen


@pytest.fixture(scope="module")
def plugin(root: Path) -> str:
    """The entry point."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return project["entry-points"]["lmms_eval.models"]["lladav"]


@pytest.fixture(scope="module")
def seen(folder: Path, plugin: str) -> Seen:
    return apart(used, folder, plugin)


def test_the_entry_point_names_the_model(seen: Seen) -> None:
    assert seen.manifest == ("lladav", f"{MODEL}.LMMsEvalModel")
    assert seen.is_simple


def test_requests_are_answered(seen: Seen) -> None:
    assert len(seen.answers) == 3
    assert len({text for text, _ in seen.answers}) > 1
    assert all(text == text.strip() for text, _ in seen.answers)


def test_the_throughput_is_printed_and_logged(seen: Seen) -> None:
    ((seconds, tokens, speed),) = seen.logged
    assert tokens == sum(count for _, count in seen.answers) > 0
    assert speed == pytest.approx(tokens / seconds)
    assert f"lladav: {tokens} tokens that are not EOS in" in seen.printed


def test_what_is_not_supported_is_refused_in_one_line(seen: Seen) -> None:
    beams, likelihoods, rounds, processes = seen.errors
    assert beams.startswith("generation settings of task mme: num_beams=3 is not supported")
    assert likelihoods == "lladav: 3 requests for log-likelihoods; choose tasks that generate"
    assert rounds == "lladav: 3 requests of several rounds; choose tasks of one round"
    assert processes.endswith("start one process, which uses all GPUs through Ray")
