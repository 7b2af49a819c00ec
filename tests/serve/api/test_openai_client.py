"""The official ``openai`` client, unmodified, against the API."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import openai
import pytest
from jsonschema import validate
from PIL import Image

from serve.engine.messages import EngineRequest, Finished
from serve.errors import ApiError
from serve.settings import ServeSettings
from tests.serve.apis import NAME, LocalEngines, serving
from tests.serve.images import encoded, uri

SCHEMA = {
    "type": "object",
    "properties": {
        "digits": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["digits", "sure"],
    "additionalProperties": False,
}


def question(text: str = "What is this?", images: int = 1) -> Any:
    """A user message with images."""
    pictures = [uri(encoded(Image.new("RGB", (40 + 8 * n, 30), (200, 20 * n, 0)))) for n in range(images)]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def ask(openai_client: openai.OpenAI, **given: Any) -> Any:
    return openai_client.chat.completions.create(
        **{"model": NAME, "messages": question(), "max_tokens": 16, **given}
    )


def streamed(chunks: Any) -> tuple[str, str | None, Any]:
    """Text, finish reason and usage of a stream with one choice."""
    text, finish, usage = "", None, None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    return text, finish, usage


def test_an_answer_about_an_image(openai_client: openai.OpenAI) -> None:
    answer = ask(openai_client, extra_body={"refresh_interval": 4})
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 16
    assert answer.usage.refresh_interval == 4
    assert answer.usage.forwards == answer.usage.refreshes + answer.usage.cached_steps


@pytest.mark.parametrize("given", [{}, {"threshold": 0.2}, {"block_length": 4, "refresh_interval": 3}])
def test_a_stream_equals_the_whole_answer(openai_client: openai.OpenAI, given: Any) -> None:
    whole = ask(openai_client, extra_body=given)
    chunks = ask(openai_client, extra_body=given, stream=True, stream_options={"include_usage": True})
    text, finish, usage = streamed(chunks)
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage


def test_several_images_and_turns(openai_client: openai.OpenAI) -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        *question(images=2),
        {"role": "assistant", "content": "Two pictures."},
        {"role": "user", "content": "And which is larger? <image>"},
    ]
    texts = [turn if turn["role"] != "user" else {"role": "user", "content": "?"} for turn in turns]
    assert (
        ask(openai_client, messages=turns).usage.prompt_tokens
        > ask(openai_client, messages=texts).usage.prompt_tokens
    )


def test_sampled_answers_follow_their_seed(openai_client: openai.OpenAI) -> None:
    first, second = (ask(openai_client, n=3, temperature=1.0, seed=7) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    assert ask(openai_client, temperature=1.0, seed=8).choices[0].message.content not in texts


def test_stops_end_an_answer(openai_client: openai.OpenAI) -> None:
    whole = ask(openai_client).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    stopped = ask(openai_client, stop=[middle])
    assert stopped.choices[0].message.content == whole[: whole.index(middle)]
    assert stopped.choices[0].finish_reason == "stop"


def test_confidences_are_log_probabilities(openai_client: openai.OpenAI) -> None:
    choice = ask(openai_client, logprobs=True).choices[0]
    tokens = choice.logprobs.content
    assert all(token.logprob <= 0 for token in tokens)
    assert all(bytes(token.bytes).decode(errors="replace") == token.token for token in tokens)
    joined = b"".join(bytes(token.bytes) for token in tokens)
    assert joined.decode(errors="replace") == choice.message.content


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output_fits_its_schema(openai_client: openai.OpenAI, stream: bool) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    answer = ask(openai_client, response_format=shape, stream=stream, max_tokens=64)
    text = streamed(answer)[0] if stream else answer.choices[0].message.content
    validate(json.loads(text), SCHEMA)


def test_the_gap_before_a_suffix_is_filled(openai_client: openai.OpenAI) -> None:
    answer = openai_client.completions.create(model=NAME, prompt="One, two, ", suffix=" four.", max_tokens=8)
    assert "four" not in answer.choices[0].text
    chunks = openai_client.completions.create(
        model=NAME, prompt="One, two, ", suffix=" four.", max_tokens=8, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text


def test_models_list_their_limits(openai_client: openai.OpenAI) -> None:
    [model] = openai_client.models.list().data
    assert model.id == NAME
    assert cast(Any, model).refresh_interval == {"min": 1, "max": 64, "default": 1}
    assert openai_client.models.retrieve(NAME).id == NAME


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"extra_body": {"refresh_intervall": 3}}, openai.BadRequestError, "refresh_intervall"),
        ({"extra_body": {"refresh_interval": 1000}}, openai.BadRequestError, "refresh_interval"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            openai.BadRequestError,
            "messages[0].content",
        ),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ],
)
def test_refusals_are_the_clients_own_errors(
    openai_client: openai.OpenAI, given: Any, kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as refused:
        ask(openai_client, **given)
    assert cast(Any, refused.value).param == param
    assert param.partition("[")[0] in refused.value.message
    assert refused.value.request_id


def test_the_async_client_sends_many_requests_at_a_time(api: str) -> None:
    async def several() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{api}/v1", api_key="none") as openai_client:
            asked = [
                openai_client.chat.completions.create(
                    model=NAME, messages=question(), max_tokens=12, temperature=0
                )
                for _ in range(12)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert len(set(asyncio.run(several()))) == 1


def test_a_temporary_refusal_is_retried(served: ServeSettings, engines: LocalEngines) -> None:
    class BusyAtFirst(LocalEngines):
        def __init__(self) -> None:
            self.refusals = 2

        async def answer(self, request: EngineRequest) -> list[Finished]:
            if self.refusals:
                self.refusals -= 1
                raise ApiError(503, "all replicas are busy", code="saturated", retry_after=0.1)
            return await engines.answer(request)

    with (
        serving(served, BusyAtFirst()) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=2) as openai_client,
    ):
        assert ask(openai_client).choices[0].message.content
