"""``/v1/responses``: the answers are those of chat completions, the form is that of OpenAI's client."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest
from jsonschema import validate
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from serve.errors import ApiError
from serve.media.loader import MediaLoader
from serve.settings import ServeSettings
from tests.serve.apis import NAME, LocalEngines, serving
from tests.serve.images import encoded, sample_image, uri

PATH, CHAT = "/v1/responses", "/v1/chat/completions"
URL = uri(encoded(sample_image()))
SCHEMA = {
    "type": "object",
    "properties": {"digits": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}},
    "required": ["digits"],
    "additionalProperties": False,
}
FILE = [{"type": "file"}]
EVENT = TypeAdapter[Any](ResponseStreamEvent)


def respond(openai_client: openai.OpenAI, **given: Any) -> Any:
    return openai_client.responses.create(
        **{"model": NAME, "input": "What?", "max_output_tokens": 16, **given}
    )


def chat(openai_client: openai.OpenAI, messages: Any, **given: Any) -> Any:
    return openai_client.chat.completions.create(
        **{"model": NAME, "messages": messages, "max_completion_tokens": 16, **given}
    )


def events(client: httpx.Client, **given: Any) -> list[dict[str, Any]]:
    """The events of a stream, each checked by OpenAI's own types; names and numbers are those of the data."""
    body = {"model": NAME, "input": "What?", "max_output_tokens": 16, "stream": True, **given}
    with client.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200, response.read()
        blocks = response.read().decode().removesuffix("\n\n").split("\n\n")
    found = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        found.append(event)
    return found


CONVERSATION = [
    {"role": "user", "content": [{"type": "input_text", "text": "1 + 1?"}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "2", "annotations": [], "logprobs": []}],
    },
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": URL, "detail": "auto"},
            {"type": "input_text", "text": "And this?"},
        ],
    },
]
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": URL}},
            {"type": "text", "text": "And this?"},
        ],
    },
]


class TestWhole:
    """A response without streaming."""

    def test_it_answers_as_a_chat_completion(self, openai_client: openai.OpenAI):
        given = {"temperature": 1.5, "top_p": 0.9, "extra_body": {"seed": 3, "refresh_interval": 4}}
        response = respond(openai_client, input=CONVERSATION, instructions="Be short.", **given)
        answer = chat(openai_client, MESSAGES, **given)
        assert response.output_text == answer.choices[0].message.content
        assert response.usage.input_tokens == answer.usage.prompt_tokens
        assert response.usage.output_tokens == answer.usage.completion_tokens
        assert response.usage.refresh_interval == 4

    def test_its_form_is_that_of_openai(self, client: httpx.Client):
        body = {"model": NAME, "input": "What?", "instructions": "Be short.", "metadata": {"a": "b"}}
        made = client.post(PATH, json={**body, "max_output_tokens": 8, "store": True}).json()
        response = Response.model_validate(made)
        assert response.id.startswith("resp_")
        assert (response.instructions, response.metadata, response.max_output_tokens) == (
            "Be short.",
            {"a": "b"},
            8,
        )
        assert (response.status, response.incomplete_details and response.incomplete_details.reason) == (
            "incomplete",
            "max_output_tokens",
        )
        assert made["store"] is False

    def test_warnings_name_the_fields_that_were_sent(self, client: httpx.Client):
        given = {"reasoning": {"effort": "low"}, "max_output_tokens": 10**6, "text": {"verbosity": "low"}}
        made = client.post(PATH, json={"model": NAME, "input": "What?", "store": True, **given}).json()
        Response.model_validate(made)
        warnings = "; ".join(made["warnings"])
        for name in ("reasoning.effort", "text.verbosity", "store", "max_output_tokens 1000000"):
            assert name in warnings, warnings

    def test_a_schema_is_a_text_format(self, openai_client: openai.OpenAI):
        shape = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
        response = respond(openai_client, text={"format": shape}, max_output_tokens=64)
        validate(json.loads(response.output_text), SCHEMA)
        assert response.status == "completed"
        assert response.text.format.name == "answer"

    def test_an_answer_that_has_to_be_a_call_needs_no_format(self, openai_client: openai.OpenAI):
        tool = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
        shape = {"type": "json_schema", "name": "answer", "schema": {"type": "integer"}, "strict": True}
        given = {"tools": [tool], "tool_choice": {"type": "function", "name": "f"}}
        response = respond(openai_client, text={"format": shape}, max_output_tokens=128, **given)
        validate(json.loads(response.output[0].arguments), SCHEMA)
        assert response.warnings == ["text.format has no effect: the answer calls tools"]

    def test_a_pydantic_model_is_parsed(self, openai_client: openai.OpenAI):
        class Answer(BaseModel):
            sure: bool

        response = openai_client.responses.parse(model=NAME, input="Sure?", text_format=Answer)
        assert isinstance(response.output_parsed, Answer)

    def test_probabilities_are_included_if_asked_for(self, openai_client: openai.OpenAI):
        plain = respond(openai_client).output[0].content[0]
        given = respond(openai_client, include=["message.output_text.logprobs"]).output[0].content[0]
        assert plain.logprobs == []
        assert given.text == plain.text
        joined = b"".join(bytes(each.bytes) for each in given.logprobs)
        assert joined.decode(errors="replace") == given.text

    def test_an_answer_can_be_sent_again(self, openai_client: openai.OpenAI):
        first = respond(openai_client)
        history = [{"role": "user", "content": "What?"}, *first.output, {"role": "user", "content": "Why?"}]
        again = respond(openai_client, input=history)
        messages = [
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "Why?"},
        ]
        assert again.output_text == chat(openai_client, messages).choices[0].message.content


class TestStream:
    """The events of a stream."""

    def test_the_order_of_events(self, client: httpx.Client):
        kinds = [event["type"].removeprefix("response.") for event in events(client)]
        deltas = kinds.count("output_text.delta")
        assert deltas > 1
        assert kinds == [
            *("created", "in_progress", "output_item.added", "content_part.added"),
            *["output_text.delta"] * deltas,
            *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
        ]

    def test_the_last_event_has_the_whole_response(self, client: httpx.Client, openai_client: openai.OpenAI):
        given = {"include": ["message.output_text.logprobs"]}
        whole = respond(openai_client, **given)
        streamed = events(client, **given)
        last = Response.model_validate(streamed[-1]["response"])
        assert last.output_text == whole.output_text
        assert last.usage == whole.usage
        deltas = [event for event in streamed if event["type"] == "response.output_text.delta"]
        assert "".join(event["delta"] for event in deltas) == whole.output_text
        tokens = [token for event in deltas for token in event["logprobs"]]
        assert tokens == [each.to_dict() for each in whole.output[0].content[0].logprobs]

    def test_the_client_reads_it(self, openai_client: openai.OpenAI):
        with openai_client.responses.stream(model=NAME, input="What?", max_output_tokens=16) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == respond(openai_client).output_text

    @pytest.mark.parametrize("where", ["add", "ending"])
    def test_an_error_is_the_end_of_the_stream(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, where: str
    ):
        def fails(*_: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(f"serve.api.responses.items.TextItem.{where}", fails)
        *_, error, failed = events(client)
        assert (error["type"], error["code"]) == ("error", "internal_error")
        assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
        assert failed["response"]["error"]["message"] == error["message"]


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


class TestRefusals:
    """Errors are about the fields that were sent."""

    @pytest.mark.parametrize(
        ("given", "param", "says"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
            ({"conversation": "conv_1"}, "conversation", "whole conversation"),
            ({"background": True}, "background", "stream"),
            ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
            ({"max_tokens": 8}, "max_tokens", "did you mean max_output_tokens"),
            ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
            ({"metadata": {"run": {}}}, "metadata.run", "string"),
            ({"text": {"verbosity": "none"}}, "text.verbosity", "'medium'"),
            ({"input": []}, "input", "at least 1"),
            ({"input": [{"type": "reasoning"}]}, "input", "no message"),
            ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role", "'user'"),
            ({"input": [{"type": "web_search_call"}]}, "input[0]", "function_call"),
            ({"input": [{"role": "user", "content": FILE}]}, "input[0].content[0].type", "image"),
            ({"input": "x" * 20_000}, "input", "shorten"),
            ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "date"}}}},
             "text.format.schema.type", "date"),
            ({"refresh_interval": 1000}, "refresh_interval", "1 to 64"),
        ],
    )  # fmt: skip
    def test_before_images_are_read(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, given: Any, param: str, says: str
    ):
        async def visuals(*_: Any) -> Any:
            raise AssertionError

        monkeypatch.setattr(MediaLoader, "visuals", visuals)
        response = client.post(PATH, json={"model": NAME, "input": "What?", **given})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error
        assert says in error["message"]
        assert "messages" not in error["message"]

    @pytest.mark.parametrize("instructions", [None, "Be short."])
    def test_an_image_is_named_by_its_item(self, client: httpx.Client, instructions: str | None):
        text = {"role": "user", "content": "x"}
        given = [{"type": "reasoning"}, text, {"role": "user", "content": [IMAGE]}]
        body = {"model": NAME, "input": given, "instructions": instructions}
        error = client.post(PATH, json=body).json()["error"]
        assert error["param"] == "input[2].content[0].image_url"
        assert error["message"].startswith("input[2].content[0].image_url: ")


def test_an_unknown_model_is_not_found(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        respond(openai_client, model="gpt-4o")


def test_an_overloaded_server_answers_503(served: ServeSettings) -> None:
    class Busy(LocalEngines):
        def __init__(self) -> None:
            pass

        async def answer(self, *_: Any) -> Any:
            raise ApiError(503, "all replicas are busy", code="saturated", retry_after=2.0)

    with serving(served, Busy()) as address:
        response = httpx.post(f"{address}{PATH}", json={"model": NAME, "input": "What?"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
