"""Fields that common clients send: implemented, or accepted with a line in the answer's warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from serve.api.schemas.ignored_fields import IgnoredFields
from tests.serve.apis import NAME, LocalEngines, serving, settings_of

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "What is this?"}]
CONTINUED = [*MESSAGES, {"role": "assistant", "content": "x"}]
TOOL = {"type": "function", "function": {"name": "f"}}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": NAME, "messages": MESSAGES, "max_tokens": 8},
    TEXT: {"model": NAME, "prompt": "What is this?", "max_tokens": 8},
}
IGNORED: dict[str, Any] = {
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "service_tier": "auto",
    "store": True,
    "user": "me",
    "chat_template_kwargs": {"enable_thinking": False},
    "mm_processor_kwargs": {},
    "priority": 0,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_reasoning": False,
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "safety_identifier"), "x"),
    **dict.fromkeys(("verbosity", "cache_salt", "request_id"), "x"),
}  # fmt: skip


def answered(client: httpx.Client, path: str = CHAT, **given: Any) -> dict[str, Any]:
    response = client.post(path, json={**BODIES[path], **given})
    assert response.status_code == 200, response.text
    return response.json()


def text_of(client: httpx.Client, **given: Any) -> str:
    return answered(client, **given)["choices"][0]["message"]["content"]


def test_all_ignored_fields_are_tried() -> None:
    assert set(IGNORED) == set(IgnoredFields.model_fields)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_fields_without_effect_are_warnings(client: httpx.Client, path: str) -> None:
    plain, found = answered(client, path), answered(client, path, **IGNORED)
    assert {line.split()[0] for line in found["warnings"]} == set(IGNORED)
    assert found["choices"] == plain["choices"]
    assert "warnings" not in answered(client, path, **{**dict.fromkeys(IGNORED), "store": False})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tools": []}, "tools has no effect: it is empty"),
        ({"logit_bias": {}}, "logit_bias has no effect: it is empty"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls has no effect"),
        ({"top_logprobs": 3}, "top_logprobs has no effect without logprobs"),
        ({"top_k": 3}, "top_k 3 has no effect at temperature 0"),
        ({"max_tokens": 10**6}, "max_tokens 1000000 is above the limit of this server or key: it is 512"),
        ({"max_tokens": None, "max_completion_tokens": 600}, "max_completion_tokens 600 is above the limit"),
        ({"messages": CONTINUED, "tools": [TOOL]}, "tools has no effect: the answer continues a message"),
        ({"guided_choice": ["a"], "presence_penalty": 1}, "presence_penalty has no effect"),
        ({"guided_choice": ["a"], "allow_eos": True}, "allow_eos has no effect"),
        ({"ignore_eos": True, "allow_eos": True}, "allow_eos has no effect: with ignore_eos nothing ends"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_said(client: httpx.Client, given: dict[str, Any], says: str) -> None:
    (warning,) = answered(client, **given)["warnings"]
    assert warning.startswith(says)


@pytest.mark.parametrize(
    "given",
    [
        {"top_p": 0, "temperature": 1.5},
        {"top_k": 1, "temperature": 1.5, "seed": 3},
        {"top_k": -1},
        {"min_p": 1, "temperature": 1.5, "seed": 3},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1, "n": 1},
        {"logit_bias": {"5": 0}},
    ],
)
def test_settings_that_leave_the_most_probable_token(client: httpx.Client, given: dict[str, Any]) -> None:
    found = answered(client, **given)
    assert "warnings" not in found
    assert found["choices"][0]["message"]["content"] == text_of(client)


def test_limits_of_draws_apply(client: httpx.Client) -> None:
    """At such a temperature, hardly any token would be among the most probable ones."""
    warm: Any = {"temperature": 50, "seed": 2, "logprobs": True, "top_logprobs": 3, "ignore_eos": True}
    for limits in ({}, {"top_k": 3}, {"top_p": 0.004}, {"min_p": 1}):
        given: Any = {**warm, **limits}
        content = answered(client, **given)["choices"][0]["logprobs"]["content"]
        among_first = [
            any(each["bytes"] == token["bytes"] for each in token["top_logprobs"]) for token in content
        ]
        assert all(among_first) is bool(limits)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties_make_an_answer_less_repetitive(client: httpx.Client, name: str) -> None:
    def distinct(**given: Any) -> int:
        asked = {"max_tokens": 48, "ignore_eos": True, "logprobs": True, **given}
        content = answered(client, **asked)["choices"][0]["logprobs"]["content"]
        return len({tuple(token["bytes"]) for token in content})

    assert distinct(**{name: 2.0}) > distinct()


def test_a_biased_token_is_written_or_never_written(client: httpx.Client, engines: LocalEngines) -> None:
    token = engines.worker._tokenizer.encode("7")[0]
    assert text_of(client, logit_bias={str(token): 100}) == "7" * 8
    for bias, expected in ((2, True), (-100, False)):
        given = {"logit_bias": {str(token): bias}, "temperature": 2, "max_tokens": 128, "ignore_eos": True}
        assert ("7" in text_of(client, **given, seed=1)) is expected


@pytest.mark.parametrize("by_default", [False, True])
def test_eos_ends_an_answer_if_the_model_or_the_request_allows_it(
    model_folder: Path, engines: LocalEngines, tmp_path: Path, by_default: bool
) -> None:
    folder = with_allow_eos(model_folder, tmp_path, by_default)
    bias = {str(engines.worker._tokenizer.ids.eos): 100}
    settings = settings_of(folder, aliases={"other": {"allow_eos": not by_default}})
    with serving(settings, engines) as address, httpx.Client(base_url=address, timeout=60) as client:

        def finish(**given: Any) -> str:
            return answered(client, logit_bias=bias, **given)["choices"][0]["finish_reason"]

        assert finish() == ("stop" if by_default else "length")
        assert finish(model="other") == finish(allow_eos=not by_default) != finish()
        assert finish(model="other", allow_eos=by_default) == finish()
        assert finish(allow_eos=True, ignore_eos=True) == "length"


def with_allow_eos(model_folder: Path, folder: Path, value: bool) -> Path:
    """A copy of a checkpoint in ``folder`` with another ``model.allow_eos``."""
    copied = shutil.copytree(model_folder, folder / "model")
    config = json.loads((copied / "config.json").read_text())
    config["lladav"]["allow_eos"] = value
    (copied / "config.json").write_text(json.dumps(config))
    return copied


@pytest.mark.parametrize("count", [0, 1, 20])
@pytest.mark.parametrize("stream", [False, True])
def test_candidates_come_with_each_token(client: httpx.Client, count: int, stream: bool) -> None:
    given = {"logprobs": True, "top_logprobs": count, "ignore_eos": True}
    content = answered(client, **given)["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for token in content:
        assert len(token["top_logprobs"]) == count
        logprobs = [each["logprob"] for each in token["top_logprobs"]]
        assert logprobs == sorted(logprobs, reverse=True)
        if count:
            assert token["top_logprobs"][0]["bytes"] == token["bytes"]
            assert logprobs[0] == pytest.approx(token["logprob"], abs=1e-4)
    if stream:
        chunks = _chunks(client, **given)
        assert [token for each in chunks for token in each["logprobs"]["content"]] == content


def _chunks(client: httpx.Client, **given: Any) -> list[Any]:
    """The choices of the chunks of a stream that have probabilities."""
    response = client.post(CHAT, json={**BODIES[CHAT], **given, "stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return [choice for choice in choices if choice["logprobs"]]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-9}, "repetition_penalty"),
        ({"logit_bias": {"3": 101}}, "logit_bias.3"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities[0]"),
    ],
)
def test_values_out_of_range_are_refused(client: httpx.Client, given: dict[str, Any], param: str) -> None:
    response = client.post(CHAT, json={**BODIES[CHAT], **given})
    assert response.status_code in (400, 422)
    assert response.json()["error"]["param"] == param


def test_more_than_four_stops(client: httpx.Client) -> None:
    whole = text_of(client)
    assert text_of(client, stop=[*"€ƒ„…†‡", whole[2:4]]) == whole[: whole.index(whole[2:4])]


def test_an_alias_may_have_limits_of_draws(model_folder: Any) -> None:
    settings = settings_of(model_folder, aliases={"warm": {"temperature": 1.0, "top_k": 4, "min_p": 0.1}})
    engines = LocalEngines(settings)
    try:
        with serving(settings, engines) as address, httpx.Client(base_url=address, timeout=60) as client:
            assert answered(client, model="warm", seed=1)["choices"]
            assert text_of(client, model="warm", top_k=-1, min_p=0, top_p=0) == text_of(client)
    finally:
        engines.worker.stop()
