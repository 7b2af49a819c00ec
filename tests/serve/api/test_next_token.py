"""The API of a model that predicts the next token: only settings of denoising are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from lladav.errors import UserError
from serve.settings import ServeSettings
from tests.serve.apis import NAME, LocalEngines, app_of, serving, settings_of

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES = {
    CHAT: {"model": NAME, "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 9},
    TEXT: {"model": NAME, "prompt": "What is this?", "max_tokens": 9},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}}}


@pytest.fixture
def client(next_token_api: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=next_token_api, timeout=60) as made:
        yield made


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_takes_a_prefill_and_a_cached_step_for_each_further_token(
    client: httpx.Client, path: str
) -> None:
    response = client.post(path, json={**BODIES[path], "ignore_eos": True})
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    assert usage["completion_tokens"] == 9
    assert (usage["forwards"], usage["refreshes"], usage["cached_steps"]) == (9, 1, 8)
    assert usage["refresh_interval"] is None
    assert "warnings" not in response.json()


def test_a_deadline_and_several_sampled_answers_with_probabilities(client: httpx.Client) -> None:
    given = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "n": 2, "deadline_ms": 60_000, "logprobs": True}
    first, again = (client.post(CHAT, json={**BODIES[CHAT], **given}).json()["choices"] for _ in range(2))
    assert first == again
    assert first[0]["message"] != first[1]["message"]
    assert all(token["logprob"] <= 0 for choice in first for token in choice["logprobs"]["content"])


def test_repetition_is_suppressed_on_request(client: httpx.Client) -> None:
    given = {"max_tokens": 40, "ignore_eos": True, "logprobs": True}
    free, suppressed = (
        client.post(CHAT, json={**BODIES[CHAT], **given, **more}).json()["choices"][0]["logprobs"]["content"]
        for more in ({}, {"no_repeat_ngram": 1})
    )
    assert len({tuple(token["bytes"]) for token in free}) < 40
    assert len({tuple(token["bytes"]) for token in suppressed}) == 40


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (CHAT, {"refresh_interval": 1}),
        (CHAT, {"refresh_interval": {"min": 1, "max": 4}}),
        (CHAT, {"block_length": 4}),
        (CHAT, {"steps": 4}),
        (CHAT, {"threshold": 0.9}),
        (CHAT, {"cache": "prefix"}),
        (CHAT, {"guidance": 1.0}),
        (CHAT, {"allow_eos": True}),
        (CHAT, {"reveal": "quota"}),
        (CHAT, {"effort": "fast"}),
        (CHAT, {"response_format": SCHEMA}),
        (CHAT, {"response_format": {"type": "json_object"}}),
        (CHAT, {"structured_outputs": {"regex": "a"}}),
        (CHAT, {"guided_choice": ["a", "b"]}),
        (TEXT, {"guided_json": {"type": "string"}}),
        (TEXT, {"suffix": " end"}),
    ],
)
def test_fields_of_denoising_are_refused_by_name(
    client: httpx.Client, path: str, given: dict[str, Any]
) -> None:
    response = client.post(path, json={**BODIES[path], **given})
    (field,), error = given, response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert error["message"].startswith(
        f"{field}: for masked diffusion only, and this model predicts the next"
    )
    assert "\n" not in error["message"]


def test_the_model_says_what_it_predicts_and_has_no_settings_of_denoising(
    client: httpx.Client, api: str
) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["prediction"] == "next_token"
    assert (model["block_length"], model["refresh_interval"], model["efforts"]) == (None, None, [])
    (masked,) = httpx.get(f"{api}/v1/models").json()["data"]
    assert masked["prediction"] == "masked"
    assert masked["refresh_interval"]["min"] == 1


def test_defaults_of_the_server_for_denoising_have_no_effect(next_token_folder: Path) -> None:
    settings = settings_of(next_token_folder, decoding__block_length=5, decoding__tokens_per_step=2)
    assert answer_with(settings)["completion_tokens"] == 9


def test_an_alias_may_sample(next_token_folder: Path) -> None:
    settings = settings_of(next_token_folder, aliases={"warm": {"temperature": 1.0}})
    assert answer_with(settings, model="warm")["completion_tokens"] == 9


def test_an_alias_that_denoises_is_refused(next_token_folder: Path, engines: LocalEngines) -> None:
    settings = settings_of(next_token_folder, aliases={"quick": {"threshold": 0.9}})
    with pytest.raises(UserError, match=r"aliases\.quick: threshold: for masked diffusion only"):
        app_of(settings, engines)


def answer_with(settings: ServeSettings, model: str = NAME) -> dict[str, Any]:
    """The usage of an answer of a server with these settings."""
    engines = LocalEngines(settings)
    try:
        with serving(settings, engines) as address:
            body = {**BODIES[CHAT], "model": model, "ignore_eos": True}
            return httpx.post(f"{address}{CHAT}", json=body, timeout=60).json()["usage"]
    finally:
        engines.worker.stop()
