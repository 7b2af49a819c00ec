"""Aliases of the model: names that stand for decoding params."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from lladav.errors import UserError
from serve.ingress import service_of
from serve.settings import ServeSettings, load
from tests.serve.apis import NAME, LocalEngines, serving, settings_of

ALIASES = {"slow": {"refresh_interval": 2}, "quick": {"refresh_interval": 8, "threshold": 1e-4}}
QUESTION = [{"role": "user", "content": "What is this?"}]


@pytest.fixture(scope="module")
def client(model_folder: Path, engines: LocalEngines) -> Iterator[httpx.Client]:
    """A client of a server with aliases."""
    settings = settings_of(model_folder, aliases=ALIASES, dial__presets__balanced={"steps": 4})
    with serving(settings, engines) as address, httpx.Client(base_url=address, timeout=60) as made:
        yield made


def usage(client: httpx.Client, model: str, **given: Any) -> dict[str, Any]:
    """The usage of an answer of 16 tokens in blocks of 8."""
    body = {"model": model, "messages": QUESTION, "max_tokens": 16, "ignore_eos": True, **given}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    return response.json()["usage"]


def test_aliases_are_listed_after_the_model(client: httpx.Client) -> None:
    model, slow, quick = client.get("/v1/models").json()["data"]
    assert [each["id"] for each in (model, slow, quick)] == [NAME, "slow", "quick"]
    assert "params" not in model
    assert (quick["parent"], quick["params"]) == (NAME, ALIASES["quick"])
    assert client.get("/v1/models/slow").json() == slow


def test_an_alias_stands_for_its_params(client: httpx.Client) -> None:
    slow, quick = usage(client, "slow"), usage(client, "quick")
    assert (slow["refresh_interval"], slow["forwards"]) == (2, 16)
    assert quick["refresh_interval"] == 8
    assert quick["forwards"] < slow["forwards"]


def test_fields_of_a_request_override_its_alias(client: httpx.Client) -> None:
    assert usage(client, "slow", refresh_interval=4)["refresh_interval"] == 4


def test_a_rule_in_a_request_replaces_the_rule_of_its_alias(client: httpx.Client) -> None:
    own, preset = usage(client, "quick", tokens_per_step=1), usage(client, "quick", effort="balanced")
    assert (own["refresh_interval"], own["forwards"]) == (8, 16)
    assert (preset["refresh_interval"], preset["forwards"]) == (4, 4)  # the preset has an interval, too


def test_an_unknown_model_is_refused_with_the_names_that_exist(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json={"model": "fast", "messages": QUESTION})
    assert response.status_code == 404
    assert f"use '{NAME}' or 'slow' or 'quick'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"refresh_interval": 65}, "this server permits 1 to 64"),
        ({"threshold": 0.5, "steps": 4}, "exclude each other"),
        ({"steps": 5}, "multiple of"),
    ],
)
def test_an_alias_that_no_request_could_use_fails_the_start(
    served: ServeSettings, engines: LocalEngines, params: dict[str, Any], says: str
) -> None:
    settings = settings_of(Path(served.model), aliases={"broken": params})

    async def is_ready() -> bool:
        return True

    with pytest.raises(UserError, match=rf"^aliases\.broken: .*{says}"):
        service_of(settings, engines, is_ready)


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ({NAME: {}}, f"aliases: {NAME} is the name of the model itself"),
        (
            {"a": {"temprature": 1}},
            "aliases.a.temprature: unknown setting; did you mean aliases.a.temperature?",
        ),
        ({"a": {"refresh_interval": 0}}, "aliases.a.refresh_interval=0: "),
    ],
)
def test_mistakes_in_the_settings_are_one_line(aliases: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match="^" + says.replace("?", r"\?")):
        load({"model": "folder", "aliases": aliases})
