from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from playwright.sync_api import Browser

from lladav.config.schema import ModelPart
from serve.settings import ServeSettings
from tests.lladav.adapted import RandomAdapter, saved
from tests.lladav.build import tiny_ar_config
from tests.serve.apis import LocalEngines, checkpoint, serving, settings_of
from tests.serve.browser import Playground, chromium


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> Iterator[None]:
    """No line in the log for each request: what a test prints stays readable."""
    log = logging.getLogger("ray.serve.requests")
    before = log.level
    log.setLevel(logging.WARNING)
    yield
    log.setLevel(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, golden: Any) -> Path:
    """An untrained model as a checkpoint."""
    return checkpoint(tmp_path_factory.mktemp("served"), golden.folder / "tokenizer")


@pytest.fixture(scope="session")
def adapter_folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random adapters of the model: of its language tower, and of all parts."""
    adapters = {
        "words": RandomAdapter(rank=4, seed=1),
        "all-parts": RandomAdapter(2, 3, [ModelPart.language, ModelPart.vision], projector=True, seed=2),
    }
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: str(saved(each, model_folder, folder / name, tokenizer=model_folder))
        for name, each in adapters.items()
    }


@pytest.fixture(scope="session")
def next_token_folder(tmp_path_factory: pytest.TempPathFactory, golden: Any) -> Path:
    """An untrained model that predicts the next token, as a checkpoint."""
    folder = tmp_path_factory.mktemp("served")
    return checkpoint(folder, golden.folder / "tokenizer", tiny_ar_config)


@pytest.fixture(scope="session")
def next_token_api(next_token_folder: Path) -> Iterator[str]:
    """Address of a running API of a model that predicts the next token."""
    settings = settings_of(next_token_folder)
    engines = LocalEngines(settings)
    with serving(settings, engines) as address:
        yield address
    engines.worker.stop()


@pytest.fixture(scope="session")
def served(model_folder: Path) -> ServeSettings:
    """The settings of ``api``."""
    return settings_of(model_folder)


@pytest.fixture(scope="session")
def engines(served: ServeSettings) -> Iterator[LocalEngines]:
    """The engine behind ``api``."""
    made = LocalEngines(served)
    yield made
    made.worker.stop()


@pytest.fixture(scope="session")
def api(served: ServeSettings, engines: LocalEngines) -> Iterator[str]:
    """Address of a running API, its engine in this process."""
    with serving(served, engines) as address:
        yield address


@pytest.fixture
def client(api: str) -> Iterator[httpx.Client]:
    """A client of ``api``."""
    with httpx.Client(base_url=api, timeout=60) as made:
        yield made


@pytest.fixture
def openai_client(api: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of ``api``."""
    with openai.OpenAI(base_url=f"{api}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Playground]]:
    """Opens the page at an address; at the end nobody else was asked, and the console stayed silent."""
    opened: list[Playground] = []

    def open_at(address: str, **options: Any) -> Playground:
        opened.append(Playground(browser.new_page(**options), address))
        return opened[-1]

    yield open_at
    for each in opened:
        each.page.close()
        assert each.strangers == []
        assert each.complaints == []


@pytest.fixture
def playground(api: str, open_page: Callable[..., Playground]) -> Playground:
    return open_page(api)
