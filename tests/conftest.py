"""Fixtures for all tests: golden vectors, one torch thread, an S3 server.

Golden tests read ``tests/golden``, or another folder in the same format that ``LLADAV_GOLDEN`` names.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.buckets import BUCKET, S3Server
from tests.buckets import s3_server as serve_s3

if TYPE_CHECKING:
    from torch import Tensor

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # finds ninja


RAY_TIMEOUT = 600
"""Seconds that a test with a Ray may take: starting processes takes minutes on a busy machine."""

# The short form tries the same examples each time, so that a change is not blamed for what it did not do.
hypothesis.settings.register_profile("short", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("full", deadline=None, max_examples=300)


class Golden:
    """Recorded inputs and outputs of the released code, loaded on first access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        return json.loads((self.folder / "cases.json").read_text(encoding="utf-8"))

    @property
    def cases(self) -> dict[str, Any]:
        """Expected values by name of the case."""
        return self._recorded["cases"]

    @property
    def special_ids(self) -> dict[str, Any]:
        """Ids used as LLaDA's special tokens, and the size of the vocabulary."""
        return self._recorded["special_ids"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All recorded tensors by name."""
        from safetensors.torch import load_file

        return load_file(self.folder / "tensors.safetensors")


def pytest_addoption(parser: pytest.Parser) -> None:
    meaning = "run the long form of tests marked proof, and property tests with more examples"
    parser.addoption("--full", action="store_true", help=meaning)


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples property tests try."""
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "short")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether tests marked ``proof`` run in their long form."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="module")
def takes_minutes(full: bool) -> None:
    """Skips a test without ``--full``."""
    if not full:
        pytest.skip("takes minutes; --full runs it")


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The golden vectors."""
    return Golden(Path(os.environ.get("LLADAV_GOLDEN", Path(__file__).parent / "golden")))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Form the groups of tests that run in one process, one test after another, and start the longest early.

    A file is a group, so that its fixtures are set up once. Tests that start Ray form two groups,
    ``tests/serve`` and the rest: they may run side by side, because Ray mostly waits, but more clusters need
    more memory. Tests marked ``redeploys`` come last in their file: others would have to deploy again. Tests
    with a Ray get more time, and GPU tests are skipped on machines without a GPU.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(RAY_TIMEOUT))
    _skip_without_gpu([item for item in items if item.get_closest_marker("gpu")])
    yield
    ray, slow = ({item.path for item in items if item.get_closest_marker(each)} for each in ("ray", "slow"))
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(
        key=lambda item: (
            *(item.path not in ray, item.path not in slow, files[item.path]),
            item.get_closest_marker("redeploys") is not None,
        )
    )


def _group_of(item: pytest.Item) -> str:
    if not item.get_closest_marker("ray"):
        return item.nodeid.partition("::")[0]
    return "ray_serve" if item.path.is_relative_to(Path(__file__).parent / "serve") else "ray"


def _skip_without_gpu(items: list[pytest.Item]) -> None:
    if not items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server on this machine, shared by all tests of the process."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """URI of an empty folder in a bucket; S3 clients reach its server, and the download cache is empty."""
    monkeypatch.setenv("LLADAV_CACHE", str(tmp_path / "cache"))
    with s3_server.reached():
        yield f"s3://{BUCKET}/{request.node.name}"
