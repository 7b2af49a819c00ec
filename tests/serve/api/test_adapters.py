"""Adapters over HTTP: each is a model with a name of its own, and answers as the merged model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from lladav.errors import UserError
from serve.settings import load
from serve.starting import check_checkpoint
from tests.serve.apis import NAME, LocalEngines, serving, settings_of
from tests.serve.images import encoded, sample_image, uri

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}
IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}
QUESTION = {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]}]}
LIMITS = {"max_tokens": 16, "ignore_eos": True}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**QUESTION, **LIMITS}),
    ("/v1/chat/completions", {**QUESTION, **LIMITS, "refresh_interval": 4, "temperature": 0.7, "seed": 5}),
    (
        "/v1/chat/completions",
        {
            **QUESTION,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
    ),
    ("/v1/completions", {"prompt": "One, two,", **LIMITS}),
    ("/v1/responses", {"input": "What?", "max_output_tokens": 16}),
]


@pytest.fixture(scope="module")
def client(model_folder: Path, adapter_folders: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of a server with a model and its adapters."""
    with server(model_folder, adapters=adapter_folders) as made:
        yield made


@pytest.fixture(scope="module")
def merged(model_folder: Path, adapter_folders: dict[str, str]) -> Iterator[Mapping[str, httpx.Client]]:
    """Clients of a server for each model; a folder of an adapter is opened as the merged model."""
    with ExitStack() as stack:
        folders = {NAME: model_folder, **adapter_folders}
        yield {name: stack.enter_context(server(folder)) for name, folder in folders.items()}


@contextmanager
def server(model: Path | str, **given: Any) -> Iterator[httpx.Client]:
    """A client of a server of a model in float32."""
    settings = settings_of(Path(model), engine__dtype="float32", **given)
    engines = LocalEngines(settings)
    with serving(settings, engines) as address, httpx.Client(base_url=address, timeout=60) as made:
        yield made
    engines.worker.stop()


def answer_of(client: httpx.Client, path: str, body: Mapping[str, Any]) -> Any:
    """The texts of an answer."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answered = response.json()
    assert answered["model"] == body["model"]
    return (
        [each.get("message") or each["text"] for each in answered["choices"]]
        if "choices" in answered
        else [part["text"] for each in answered["output"] for part in each["content"]]
    )


def test_requests_to_all_models_at_once_get_the_answers_of_the_merged_models(
    client: httpx.Client, merged: Mapping[str, httpx.Client]
) -> None:
    asked = [(name, path, {**body, "model": name}) for path, body in REQUESTS for name in merged]
    with ThreadPoolExecutor(len(asked)) as threads:
        found = [*threads.map(lambda each: answer_of(client, *each[1:]), asked)]
    expected = [answer_of(merged[name], path, {**body, "model": NAME}) for name, path, body in asked]
    assert found == expected
    assert len({str(each) for each in found[: len(merged)]}) == len(merged)


def test_adapters_are_listed_with_their_parent_and_folder(
    client: httpx.Client, adapter_folders: dict[str, str]
) -> None:
    base, *adapters = client.get("/v1/models").json()["data"]
    assert base["id"] == NAME
    assert "parent" not in base
    described = {each["id"]: (each["parent"], each["root"]) for each in adapters}
    assert described == {name: (NAME, folder) for name, folder in adapter_folders.items()}
    assert client.get("/v1/models/words").json() == adapters[0]


def test_an_unknown_model_is_refused_with_the_names_of_adapters(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json={**QUESTION, "model": "word"})
    assert response.status_code == 404
    assert f"use '{NAME}' or 'words' or 'all-parts'" in response.json()["error"]["message"]


def test_fingerprint_and_tokens_go_by_the_model_of_a_request(client: httpx.Client) -> None:
    bodies = [{**QUESTION, "max_tokens": 1, "model": name} for name in (NAME, "words", "all-parts")]
    answers = [client.post("/v1/chat/completions", json=body).json() for body in bodies]
    assert len({each["system_fingerprint"] for each in answers}) == 3
    tokens = client.post("/tokenize", json={"model": "words", "prompt": "One"})
    assert tokens.status_code == 200


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({f"adapters.{NAME}": "folder"}, f"adapters: {NAME} is the name of the model itself; choose another"),
        (
            {"adapters.a": "folder", "aliases.a.steps": 4},
            "aliases: a is the name of an adapter; choose another",
        ),
    ],
)
def test_mistakes_in_the_settings_are_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^{says}"):
        load({"model": "folder", **given})


def test_adapters_are_checked_with_the_checkpoint(
    model_folder: Path, adapter_folders: dict[str, str], tmp_path: Path
) -> None:
    check_checkpoint(settings_of(model_folder, adapters=adapter_folders))
    with pytest.raises(UserError, match=rf"^adapters\.pets: {tmp_path}: holds no adapter_config\.json; name"):
        check_checkpoint(settings_of(model_folder, adapters={"pets": str(tmp_path)}))
