"""Conversations as clients resend them: roles, null and unknown keys, messages that are continued."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer
from lladav.inputs.samples import IMAGE_PLACEHOLDER
from serve.api.planning.prompts import chat_prompt
from serve.api.planning.tools import callable_tools
from serve.api.schemas.completion_requests import ChatRequest
from tests.serve.apis import NAME
from tests.serve.images import encoded, sample_image, uri

CHAT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}
USER = {"role": "user", "content": "What is this?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "no json"}},
    ],
}
RESULTS = [{"role": "tool", "tool_call_id": f"{n}", "content": f"result {n}"} for n in (1, 2)]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "To f.", "parameters": {"type": "object"}},
}


@pytest.fixture(scope="module")
def tokenizer(golden: Any) -> ChatTokenizer:
    return ChatTokenizer.load(golden.folder / "tokenizer")


def body(*messages: Any, **given: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": list(messages), "max_tokens": 8, **given}


def prompt(tokenizer: ChatTokenizer, *messages: Any, **given: Any) -> str:
    """The prompt of a conversation as text, with the names of special tokens."""
    request = ChatRequest.model_validate(body(*messages, **given))
    ids = chat_prompt(request, callable_tools(request), tokenizer).text.input_ids.tolist()
    names = {
        i: tokenizer.names[role]
        for role, i in vars(tokenizer.ids).items()
        if role != "mask" and i is not None
    }
    names[IMAGE_PLACEHOLDER] = "<image>"
    return "".join(names.get(i) or tokenizer.decode([i]) for i in ids)


def turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"


def opened(*turns: str, start: str = "") -> str:
    return f"<|startoftext|>{''.join(turns)}<|start_header_id|>assistant<|end_header_id|>\n\n{start}"


def test_system_messages_are_joined(tokenizer: ChatTokenizer) -> None:
    first, second = {"role": "system", "content": "Be short."}, {"role": "developer", "content": "Be kind."}
    expected = opened(turn("system", "Be short.\n\nBe kind."), turn("user", "What is this?"))
    assert prompt(tokenizer, first, USER, second) == prompt(tokenizer, first, second, USER) == expected


def test_a_last_message_of_the_assistant_is_the_start_of_the_answer(tokenizer: ChatTokenizer) -> None:
    start = {"role": "assistant", "content": [{"type": "text", "text": "It is "}]}
    turns = turn("system", SYSTEM_PROMPT), turn("user", "What is this?")
    continued = opened(*turns, start="It is ")
    assert prompt(tokenizer, USER, start) == continued
    for given in (
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
    ):
        assert prompt(tokenizer, USER, start, **given) == continued
    for given in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        assert prompt(tokenizer, USER, start, **given) == opened(*turns, turn("assistant", "It is"))


def test_calls_and_results_are_text(tokenizer: ChatTokenizer) -> None:
    calls = (
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": no json}\n</tool_call>'
    )
    results = "\n".join(f"<tool_response>\nresult {n}\n</tool_response>" for n in (1, 2))
    turns = turn("system", SYSTEM_PROMPT), turn("user", "What is this?"), turn("assistant", calls)
    assert prompt(tokenizer, USER, CALLED, *RESULTS) == opened(*turns, turn("user", results))
    spoken = {**CALLED, "content": "Let me see."}
    assert turn("assistant", f"Let me see.\n{calls}") in prompt(tokenizer, USER, spoken, *RESULTS)


def test_tools_end_the_system_message(tokenizer: ChatTokenizer) -> None:
    found = prompt(tokenizer, USER, tools=[TOOL])
    system, _, _ = found.partition("<|eot_id|>")
    assert SYSTEM_PROMPT in system
    definition = '{"name": "f", "description": "To f.", "parameters": {"type": "object"}}'
    assert f'<tools>\n{{"type": "function", "function": {definition}}}\n</tools>' in system
    assert prompt(tokenizer, USER, tools=[TOOL], tool_choice="none") == prompt(tokenizer, USER)


FIRST = "messages[0].content"
RESENT = {
    "role": "assistant",
    "content": "A digit.",
    **dict.fromkeys(("refusal", "annotations", "audio", "function_call", "tool_calls")),
    "reasoning_content": "Hm.",
}
PART = {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}}
PICTURE = {
    **IMAGE,
    "image_url": {**IMAGE["image_url"], "detail": None, "format": "png"},
    "cache_control": None,
}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, RESENT, USER],
        [{"role": "user", "content": [PART, PICTURE], "name": None}],
        [USER, {"role": "assistant", "content": None}, USER],
        [USER, {"role": "assistant"}, USER],
        [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, USER],
        [{"role": "system", "content": None}, USER],
        [{"role": "assistant", "content": "It is "}],
        [USER, CALLED, *RESULTS],
        [USER, CALLED, *RESULTS, USER],
    ],
)
def test_a_history_is_accepted_as_clients_resend_it(client: httpx.Client, messages: list[Any]) -> None:
    response = client.post(CHAT, json=body(*messages))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("messages", "given", "param", "says"),
    [
        ([{"role": "user", "content": 3}], {}, "messages[0].content", "valid string"),
        ([{"role": "user", "content": []}], {}, "messages[0].content", "at least 1"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "messages[0].content[0].text", "missing"),
        ([{"role": "user", "content": [{"text": "a"}]}], {}, "messages[0].content[0].type", "missing"),
        ([{"role": "user", "content": [PART, {"type": "audio"}]}], {}, f"{FIRST}[1].type", "'video_url'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, f"{FIRST}[0].image_url", "missing"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 3}}]}],
            {},
            "messages[0].content[0].image_url.url",
            "valid string",
        ),
        ([{"role": "function", "name": "f", "content": ""}], {}, "messages[0].role", "'tool'"),
        ([{"content": ""}], {}, "messages[0].role", "missing"),
        ([USER, {"role": "system", "content": "x"}], {}, "messages[1].role", "end with"),
        ([USER, CALLED], {}, "messages[1].tool_calls", "role tool"),
        ([USER], {"continue_final_message": True}, "continue_final_message", "not the assistant's"),
        ([USER], {"add_generation_prompt": False}, "add_generation_prompt", "nothing to answer"),
        (
            [USER, {"role": "assistant", "content": "x"}],
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
            "exclude each other",
        ),
        (
            [USER, {"role": "assistant", "content": "x"}],
            {"tools": [TOOL], "tool_choice": "required"},
            "tool_choice",
            "continues a message",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_part_and_its_key(
    client: httpx.Client, messages: list[Any], given: dict[str, Any], param: str, says: str
) -> None:
    response = client.post(CHAT, json=body(*messages, **given))
    error = response.json()["error"]
    assert response.status_code in (400, 422)
    assert error["param"] == param, error
    assert says in error["message"]
