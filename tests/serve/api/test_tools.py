"""Tools by the unmodified ``openai`` client: calls that validate, streams, and calls in the history."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest
from jsonschema import validate

from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.tool_text import call_text
from serve.api.answers.tool_calls import CallReader, whole_calls
from tests.serve.apis import NAME

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
ADD = {
    "type": "object",
    "properties": {name: {"type": "integer", "minimum": 0, "maximum": 99} for name in "ab"},
    "required": ["a", "b"],
}
SCHEMAS = {"get_weather": WEATHER, "add": ADD}


def tool(name: str, parameters: Any) -> Any:
    """A tool of one function."""
    function = {"name": name, "description": f"To {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


def of_schema(schema: Any) -> Any:
    """The response format of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


TOOLS = [tool(name, schema) for name, schema in SCHEMAS.items()]
QUESTION: list[Any] = [{"role": "user", "content": "How warm is it in Rome?"}]
FORMAT = "response_format.json_schema.schema"
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def opening(golden: Any) -> int:
    """The token with which calls begin."""
    return ChatTokenizer.load(golden.folder / "tokenizer").encode("<tool_call>")[0]


def ask(openai_client: openai.OpenAI, **given: Any) -> Any:
    asked = {"model": NAME, "messages": QUESTION, "max_tokens": 128, "tools": TOOLS, **given}
    return openai_client.chat.completions.create(**asked)


def check_calls(message: Any) -> list[str]:
    """The names of the called functions, whose arguments are valid."""
    for call in message.tool_calls:
        assert call.type == "function"
        assert call.id.startswith("call_")
        validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    return [call.function.name for call in message.tool_calls]


@pytest.mark.parametrize("temperature", [0, 2])
def test_required_tools_are_called(openai_client: openai.OpenAI, temperature: float) -> None:
    answer = ask(openai_client, tool_choice="required", temperature=temperature, seed=1, n=2)
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert set(check_calls(choice.message)) <= set(SCHEMAS)


def test_a_named_tool_is_called_once(openai_client: openai.OpenAI) -> None:
    assert check_calls(ask(openai_client, tool_choice=NAMED).choices[0].message) == ["add"]


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_only_allowed_tools_are_called(openai_client: openai.OpenAI, mode: str, opening: int) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}
    answer = ask(openai_client, tool_choice=allowed, parallel_tool_calls=False, logit_bias={opening: 100})
    assert check_calls(answer.choices[0].message) == ["add"]


def test_several_calls_only_in_parallel(openai_client: openai.OpenAI) -> None:
    counts: dict[bool, set[int]] = {}
    for parallel in (False, True):
        answers = [
            ask(
                openai_client,
                tools=[tool("f", None)],
                tool_choice="required",
                **given,
                parallel_tool_calls=parallel,
            )
            for given in ({}, {"temperature": 5, "seed": 1, "n": 4})
        ]
        choices = [choice for answer in answers for choice in answer.choices]
        counts[parallel] = {len(choice.message.tool_calls) for choice in choices}
    assert counts[False] == {1}
    assert max(counts[True]) > 1


def test_auto_is_decided_by_the_first_token_of_a_call(openai_client: openai.OpenAI, opening: int) -> None:
    text = ask(openai_client, logit_bias={opening: -100}).choices[0]
    assert text.message.tool_calls is None
    assert text.message.content
    assert text.finish_reason in ("stop", "length")
    calls = ask(openai_client, logit_bias={opening: 100}).choices[0]
    assert check_calls(calls.message)
    assert (calls.message.content, calls.finish_reason) == (None, "tool_calls")


def test_a_text_among_tools_ends_at_its_stops(openai_client: openai.OpenAI, opening: int) -> None:
    given: Any = {"logit_bias": {opening: -100}}
    whole = ask(openai_client, **given).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    stopped = ask(openai_client, **given, stop=[middle]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(middle)], "stop")


@pytest.mark.parametrize("bias", [-100, 100])
def test_without_max_tokens_texts_and_calls_have_their_own_limits(
    openai_client: openai.OpenAI, opening: int, bias: float
) -> None:
    given: Any = {"logit_bias": {opening: bias}, "extra_body": {"ignore_eos": True}}
    answer = ask(openai_client, **given, max_tokens=None)
    if bias > 0:
        assert check_calls(answer.choices[0].message)
    else:
        assert answer.usage.completion_tokens == 48  # limits.default_max_tokens


def test_an_answer_too_short_for_a_call_is_text(openai_client: openai.OpenAI, opening: int) -> None:
    answer = ask(openai_client, max_tokens=16, logit_bias={opening: 100})
    assert answer.choices[0].message.content
    assert answer.warnings == ["tools has no effect: no call fits in max_tokens"]


@pytest.mark.parametrize("given", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
def test_none_is_text(openai_client: openai.OpenAI, given: dict[str, Any], opening: int) -> None:
    answer = ask(openai_client, **given, logit_bias={opening: 5})
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content is not None


@pytest.mark.parametrize("choice", ["required", "auto", NAMED])
def test_a_stream_has_the_calls_of_the_whole_answer(
    openai_client: openai.OpenAI, choice: Any, opening: int
) -> None:
    given: Any = {"tool_choice": choice, "logit_bias": {opening: 100}, "logprobs": True}
    whole = ask(openai_client, **given)
    chunks = list(ask(openai_client, **given, stream=True, stream_options={"include_usage": True}))
    calls: dict[int, dict[str, str]] = {}
    for delta in (choice.delta for chunk in chunks for choice in chunk.choices):
        assert not delta.content
        for call in delta.tool_calls or []:
            if call.index not in calls:
                assert (call.type, call.index) == ("function", len(calls))
                calls[call.index] = {"name": call.function.name, "arguments": ""}
            else:
                assert (call.id, call.function.name) == (None, None)
            calls[call.index]["arguments"] += call.function.arguments
    expected = whole.choices[0].message.tool_calls
    assert list(calls.values()) == [call.function.model_dump() for call in expected]
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert finishes == [*[None] * (len(finishes) - 1), "tool_calls"]
    assert chunks[-1].usage == whole.usage


def test_the_helper_of_the_client_streams_calls(openai_client: openai.OpenAI) -> None:
    asked: Any = {"model": NAME, "messages": QUESTION, "tools": TOOLS, "tool_choice": "required"}
    with openai_client.chat.completions.stream(**asked, max_tokens=128) as stream:
        final = stream.get_final_completion()
    assert check_calls(final.choices[0].message)


def test_calls_and_results_are_a_part_of_the_history(openai_client: openai.OpenAI, opening: int) -> None:
    """The message goes back as the client gives it, with all its keys that are null."""
    given: Any = {"logit_bias": {opening: 100}, "temperature": 5, "seed": 1}
    message = ask(openai_client, **given).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {number}"}
        for number, call in enumerate(message.tool_calls)
    ]
    history = [*QUESTION, message.model_dump(), *results]
    with_results = ask(openai_client, messages=history, logit_bias={opening: -100})
    assert with_results.choices[0].message.content
    empty = [*history[:-1], {**results[-1], "content": ""}]
    fewer = ask(openai_client, messages=empty, logit_bias={opening: -100})
    assert with_results.usage.prompt_tokens > fewer.usage.prompt_tokens > 100


@pytest.mark.parametrize("bias", [-100, 100])
@pytest.mark.parametrize("schema", [WEATHER, {"type": "integer"}, {"type": "string", "maxLength": 9}])
def test_an_answer_calls_tools_or_fits_a_schema(
    openai_client: openai.OpenAI, opening: int, bias: float, schema: Any
) -> None:
    given: Any = {"response_format": of_schema(schema), "logit_bias": {opening: bias}}
    (choice,) = ask(openai_client, **given).choices
    chunks = list(ask(openai_client, **given, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    if bias > 0:
        assert check_calls(choice.message)
        assert choice.finish_reason == "tool_calls"
        called = [call for delta in deltas for call in delta.tool_calls or [] if call.id]
        assert len(called) == len(choice.message.tool_calls)
    else:
        validate(json.loads(choice.message.content), schema)
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        assert "".join(delta.content or "" for delta in deltas) == choice.message.content


def test_an_answer_that_has_to_call_tools_has_no_other_structure(openai_client: openai.OpenAI) -> None:
    answer = ask(openai_client, tool_choice="required", response_format={"type": "json_object"})
    assert check_calls(answer.choices[0].message)
    assert answer.warnings == ["response_format has no effect: the answer calls tools"]


def test_the_responses_api_has_the_same_calls(openai_client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": None, **each["function"]} for each in TOOLS]
    given: Any = {"model": NAME, "tools": tools, "max_output_tokens": 128}
    question: Any = {"role": "user", "content": "How warm is it in Rome?"}
    response = openai_client.responses.create(input=[question], tool_choice="required", **given)
    expected = ask(openai_client, tool_choice="required").choices[0].message.tool_calls
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(each.name, each.arguments) for each in calls] == [
        (call.function.name, call.function.arguments) for call in expected
    ]
    with openai_client.responses.stream(input=[question], tool_choice="required", **given) as stream:
        streamed = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert [(each.name, each.arguments) for each in streamed] == [(c.name, c.arguments) for c in calls]
    results = [{"type": "function_call_output", "call_id": each.call_id, "output": "20"} for each in calls]
    history: Any = [question, *response.output, *results]
    answer = openai_client.responses.create(input=history, tool_choice="none", **given)
    assert answer.output_text


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": None, "tool_choice": NAMED}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "get_weather, add"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].function.name", "used above"),
        ({"tools": TOOLS * 65}, "tools", "at most 128"),
        ({"functions": [TOOLS[0]["function"]]}, "functions", "use tools"),
        ({"function_call": "auto"}, "function_call", "use tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "function"),
        ({"tool_choice": "always"}, "tool_choice", "required"),
        ({"extra_body": {"guided_regex": "a"}}, "tools", "exclude each other"),
        ({"response_format": of_schema({"type": "date"})}, f"{FORMAT}.type", "date"),
        (
            {"tools": [TOOLS[0], tool("f", {"properties": {"x": {"type": "date"}}, "required": ["x"]})]},
            "tools[1].function.parameters.properties.x.type",
            "date",
        ),
        ({"tool_choice": "required", "max_tokens": 5}, "max_tokens", "tokens"),
    ],
)  # fmt: skip
def test_tools_that_cannot_work_are_refused(
    openai_client: openai.OpenAI, given: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(openai_client, **given)
    assert refused.value.status_code in (400, 422)
    assert refused.value.body["param"] == param, refused.value.body  # type: ignore[index]
    assert says in refused.value.message


def test_a_model_that_predicts_the_next_token_refuses_tools(next_token_api: str) -> None:
    body = {"model": NAME, "messages": QUESTION, "tools": TOOLS}
    error = httpx.post(f"{next_token_api}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "tools"
    assert httpx.post(
        f"{next_token_api}/v1/chat/completions", json={**body, "tool_choice": "none", "max_tokens": 4}
    ).json()["choices"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_read_from_a_text_in_any_pieces(size: int) -> None:
    calls = [("f", "{}"), ("g-1", '{"a": {"b": {}}, "c": "}\\n</tool_call>"}'), ("f", '{"x": [1, 2]}')]
    text, reader = "\n".join(call_text(*call) for call in calls), CallReader()
    deltas = [delta for at in range(0, len(text), size) for delta in reader.add(text[at : at + size])]
    assert [delta.index for delta in deltas] == sorted(delta.index for delta in deltas)
    found = [call["function"] for call in whole_calls(deltas)]
    assert [(each["name"], each["arguments"]) for each in found] == calls
