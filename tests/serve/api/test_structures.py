"""Fields that ask for a structure: each is enforced, two exclude each other, and errors name the field."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2 as httpx
import pytest
from jsonschema import validate

from serve.api.planning.structures import requested_structure
from serve.api.schemas.completion_requests import ChatRequest
from serve.settings import ServeSettings
from tests.serve.apis import NAME, LocalEngines, serving

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {
        "digit": {"type": "integer", "minimum": 0, "maximum": 9},
        "sure": {"type": "boolean"},
    },
    "required": ["digit"],
    "additionalProperties": False,
}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": NAME, "messages": [{"role": "user", "content": "Which digit?"}], "max_tokens": 64},
    TEXT: {"model": NAME, "prompt": "Which digit?", "max_tokens": 64},
}


def of_openai(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def of_vllm(**given: Any) -> dict[str, Any]:
    return {"structured_outputs": given}


def answered(client: httpx.Client, path: str = CHAT, **given: Any) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and the whole response."""
    response = client.post(path, json={**BODIES[path], **given})
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"] if path == CHAT else choice["text"], response.json()


def refused(client: httpx.Client, path: str = CHAT, **given: Any) -> dict[str, Any]:
    """The error of a request; its message is one line."""
    response = client.post(path, json={**BODIES[path], **given})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("temperature", [0, 2])
@pytest.mark.parametrize(
    "given",
    [
        of_openai(SCHEMA),
        of_vllm(json=SCHEMA),
        of_vllm(json=json.dumps(SCHEMA), regex=None, json_object=False),
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
def test_an_answer_fits_a_schema(
    client: httpx.Client, path: str, temperature: float, given: dict[str, Any]
) -> None:
    text, _ = answered(client, path, temperature=temperature, seed=1, **given)
    validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("regex", r"[0-9]{3}-(ab|cd)", r"[0-9]{3}-(ab|cd)"),
        ("choice", ["a dog", "a cat", "é"], r"a dog|a cat|é"),
    ],
)
def test_an_answer_matches_an_expression_or_is_one_of_some_texts(
    client: httpx.Client, path: str, name: str, value: Any, expected: str
) -> None:
    for given in (of_vllm(**{name: value}), {f"guided_{name}": value}):
        text, _ = answered(client, path, temperature=1, seed=3, **given)
        assert re.fullmatch(expected, text)


@pytest.mark.parametrize("given", [{"response_format": {"type": "json_object"}}, of_vllm(json_object=True)])
def test_an_answer_is_an_object(client: httpx.Client, given: dict[str, Any]) -> None:
    text, _ = answered(client, **given)
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        (
            {**of_openai(SCHEMA), "guided_regex": "a"},
            "guided_regex",
            "response_format.json_schema.schema and guided_regex exclude each other; keep one",
        ),
        (of_vllm(regex="a", choice=["a"]), "structured_outputs.choice", "exclude each other"),
        (of_vllm(), "structured_outputs", "describes no structure; give it json, regex, choice"),
        (of_vllm(json_object=False), "structured_outputs", "describes no structure"),
        (of_vllm(grammar="a ::= b"), "structured_outputs.grammar", "grammars are not supported; use json"),
        (of_vllm(structural_tag="{}"), "structured_outputs.structural_tag", "not supported"),
        ({"guided_grammar": "a ::= b"}, "guided_grammar", "not supported"),
        ({"structural_tag": "{}"}, "structural_tag", "not supported"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_regex": "("}, "guided_regex", "guided_regex"),
        (
            of_openai({"properties": {"a/b": {"anyOf": [{"maxLength": -1}]}}}),
            "response_format.json_schema.schema.properties.a/b.anyOf[0].maxLength",
            "response_format.json_schema.schema.properties.a/b.anyOf[0].maxLength ",
        ),
        (
            of_openai({"allOf": [{"type": "string"}, {"type": "integer"}]}),
            "response_format.json_schema.schema",
            "response_format.json_schema.schema",
        ),
        (
            {**of_openai({"type": "string", "minLength": 600}), "max_tokens": 20},
            "max_tokens",
            "tokens",
        ),
    ],
)
def test_errors_name_the_field_and_the_place(
    client: httpx.Client, given: dict[str, Any], param: str, says: str
) -> None:
    error = refused(client, **given)
    assert error["param"] == param or (param.endswith("schema") and error["param"].startswith(param))
    assert says in error["message"]


def test_text_that_takes_long_to_parse_is_refused(client: httpx.Client) -> None:
    response = client.post(CHAT, json={**BODIES[CHAT], "guided_json": "[" * 200_000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_complex")


def test_nothing_follows_an_answer_that_has_a_structure(client: httpx.Client) -> None:
    error = refused(client, TEXT, guided_regex="a", suffix="b")
    assert error["param"] == "suffix"


def test_the_model_chooses_optional_properties_unless_all_are_asked_for(
    client: httpx.Client, served: ServeSettings, engines: LocalEngines
) -> None:
    schema = {
        "type": "object",
        "properties": {f"p{n}": {"type": "boolean"} for n in range(4)},
        "additionalProperties": False,
    }
    text, _ = answered(client, **of_openai(schema), all_properties=True)
    assert list(json.loads(text)) == list(schema["properties"])
    counts = {
        len(json.loads(answered(client, **of_openai(schema), temperature=2, seed=seed)[0]))
        for seed in range(5)
    }
    assert counts <= set(range(5))
    decoding = served.decoding.model_copy(update={"all_properties": True})
    with (
        serving(served.model_copy(update={"decoding": decoding}), engines) as address,
        httpx.Client(base_url=address, timeout=60) as other,
    ):
        text, _ = answered(other, **of_openai(schema))
        assert list(json.loads(text)) == list(schema["properties"])


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({**of_openai(SCHEMA), "stop": ["}"]}, ["stop"]),
        (
            {"guided_choice": ["aaaa"], "stop": "a", "ignore_eos": True, "no_repeat_ngram": 1},
            ["stop", "ignore_eos", "no_repeat_ngram"],
        ),
        (of_openai({**SCHEMA, "x-order": 3}), ["x-order"]),
        ({"all_properties": True}, ["all_properties"]),
        ({"guided_choice": ["a"], "all_properties": True}, ["all_properties"]),
    ],
)
def test_what_has_no_effect_is_a_warning(
    client: httpx.Client, given: dict[str, Any], warned: list[str]
) -> None:
    response = client.post(CHAT, json={**BODIES[CHAT], **given})
    assert response.status_code == 200, response.text
    warnings = response.json()["warnings"]
    assert all(any(name in line for line in warnings) for name in warned)
    assert all("\n" not in line for line in warnings)


def test_the_bytes_of_the_tokens_are_the_answer_and_each_token_counts(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    text, whole = answered(client, **of_openai(schema), logprobs=True, temperature=1, seed=5)
    tokens = whole["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens) == text.encode()
    assert all(token["bytes"] for token in tokens)
    assert whole["usage"]["completion_tokens"] == len(tokens)


def test_a_structure_may_be_given_as_null() -> None:
    names = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice")
    body = ChatRequest.model_validate({**BODIES[CHAT], **dict.fromkeys(names)})
    assert requested_structure(body) is None
