"""Checks with the ``openai`` package."""

# pyright: reportMissingImports=false
from __future__ import annotations

import contextlib
from typing import Any

import openai
from checks import BASE, IMAGE, KEY, MODEL, Checks
from pydantic import BaseModel, Field

checks = Checks("openai")
client: Any = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
QUESTION: list[Any] = [{"role": "user", "content": "How many digits?"}]
PICTURE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
            {"type": "text", "text": "Which colour?"},
        ],
    }
]


class Weather(BaseModel):
    """Ask for the weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


TOOL: Any = openai.pydantic_function_tool(Weather, name="weather")


@checks("text")
def _() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=16, seed=1)
    assert answer.choices[0].message.content
    assert isinstance(answer.system_fingerprint, str)


@checks("images")
def _() -> None:
    small = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8).usage
    large = client.chat.completions.create(model=MODEL, messages=PICTURE, max_tokens=8).usage
    assert large.prompt_tokens > small.prompt_tokens


@checks("streams")
def _() -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "max_tokens": 16}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == whole


@checks("structured output")
def _() -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION}
    answer = client.chat.completions.parse(**asked, response_format=Weather)
    assert isinstance(answer.choices[0].message.parsed, Weather)


@checks("tools")
def _() -> None:
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "weather"}}]
    for choice in choices:
        answer = client.chat.completions.parse(
            model=MODEL, messages=QUESTION, tools=[TOOL], tool_choice=choice
        )
        call = answer.choices[0].message.tool_calls[0]
        assert isinstance(call.function.parsed_arguments, Weather)
        assert answer.choices[0].finish_reason in ("tool_calls", "stop")


@checks("results of tools")
def _() -> None:
    asked: Any = {"model": MODEL, "tools": [TOOL]}
    first = (
        client.chat.completions.create(**asked, messages=QUESTION, tool_choice="required").choices[0].message
    )
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in first.tool_calls or ()
    ]
    history: Any = [*QUESTION, first.model_dump(), *results]
    assert (
        client.chat.completions.create(**asked, messages=history, tool_choice="none")
        .choices[0]
        .message.content
    )


@checks("tools in streams")
def _() -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "tools": [TOOL], "tool_choice": "required"}
    with client.chat.completions.stream(**asked) as stream:
        message = stream.get_final_completion().choices[0].message
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Weather)


@checks("responses")
def _() -> None:
    answer = client.responses.create(model=MODEL, input="How many?", instructions="Be short.", store=True)
    assert answer.output_text
    parsed = client.responses.parse(model=MODEL, input="How many?", text_format=Weather)
    assert isinstance(parsed.output_parsed, Weather)
    with client.responses.stream(model=MODEL, input="How many?", text_format=Weather) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


@checks("tools of responses")
def _() -> None:
    tool: Any = openai.pydantic_function_tool(Weather, name="weather")["function"] | {"type": "function"}
    answer = client.responses.create(model=MODEL, input="How many?", tools=[tool], tool_choice="required")
    call: Any = answer.output[0]
    assert call.type == "function_call"
    Weather.model_validate_json(call.arguments)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    question: Any = {"role": "user", "content": "How many?"}
    history: Any = [question, *answer.output, result]
    assert client.responses.create(model=MODEL, input=history, tools=[tool], tool_choice="none").output_text


@checks("text completions")
def _() -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["One, ", "Two, "], max_tokens=8, n=2, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


@checks("models and errors")
def _() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    with contextlib.suppress(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        raise AssertionError("an unknown model is answered")


@checks("async")
async def _() -> None:
    async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY) as asynchronous:
        assert (await asynchronous.responses.create(model=MODEL, input="How many?")).output_text


checks.run()
