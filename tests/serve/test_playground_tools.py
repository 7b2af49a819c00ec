"""Tools in the playground: what is sent, and how calls are shown."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import jsonschema
import pytest
from playwright.sync_api import Locator, expect

from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.tool_text import BETWEEN_CALLS, call_text
from tests.serve.browser import Playground, scalars, values

PARAMETERS: dict[str, Any] = {
    "save": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}},
        "required": ["name"],
    },
    "add": {
        "type": "object",
        "properties": {"all": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}},
        "required": ["all"],
    },
    "stop": None,
}
TOOLS = json.dumps(
    [
        {"type": "function", "function": {"name": name} | ({"parameters": schema} if schema else {})}
        for name, schema in PARAMETERS.items()
    ]
)

browser_test = pytest.mark.browser


@pytest.fixture(scope="module")
def opening(golden: Any) -> int:
    """The token with which calls begin."""
    return ChatTokenizer.load(golden.folder / "tokenizer").encode("<tool_call>")[0]


def functions_of(api: str, body: dict[str, Any]) -> list[dict[str, str]]:
    """The functions that a whole answer to a streamed request calls, with their arguments."""
    whole = {name: value for name, value in body.items() if not name.startswith("stream")}
    answer = httpx.post(f"{api}/v1/chat/completions", json=whole, timeout=60).json()
    return [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]


def check_calls(card: Locator, functions: list[dict[str, str]]) -> None:
    """The canvas is the text of the calls, and a table for each lists its arguments, which are valid."""
    pairs = [(each["name"], each["arguments"]) for each in functions]
    assert card.locator(".canvas").text_content() == BETWEEN_CALLS.join(call_text(*pair) for pair in pairs)
    expect(card.locator(".place.masked")).to_have_count(0)
    tables = card.locator(".values").all()
    assert [values(table) for table in tables] == [scalars(json.loads(text)) for _, text in pairs]
    captions = [table.locator("caption").inner_text() for table in tables]
    assert captions == [f"Call of {name} ✓ fits the schema" for name, _ in pairs]


@browser_test
def test_the_tool_of_the_example_is_called_as_by_a_plain_request(playground: Playground, api: str):
    playground.set(temperature="2", seed="3")
    playground.button("Call a tool").click()
    playground.button("Ask").click()
    (card,) = playground.finished()
    (tool,) = playground.sent[0]["tools"]
    (function,) = functions_of(api, playground.sent[0])
    assert function["name"] == tool["function"]["name"]
    jsonschema.validate(json.loads(function["arguments"]), tool["function"]["parameters"])
    check_calls(card, [function])
    (copied,) = json.loads(playground.copied("Copy answer"))
    assert (copied["type"], copied["function"]) == ("function", function)


@browser_test
@pytest.mark.parametrize("choice", ["required", "save"])
def test_calls_of_several_functions_are_listed_in_order(playground: Playground, api: str, choice: str):
    playground.write("Tools", TOOLS)
    playground.page.get_by_label("Tool choice").select_option(choice)
    playground.set(temperature="5", seed="1", max_tokens="200")
    playground.ask("What is this?")
    (card,) = playground.finished()
    functions = functions_of(api, playground.sent[0])
    assert len(functions) == 1 if choice == "save" else len(functions) > 1
    check_calls(card, functions)


@browser_test
@pytest.mark.parametrize("bias", [-100, 100])
def test_the_model_decides_between_calls_and_an_answer_that_fits_the_schema(
    playground: Playground, api: str, opening: int, bias: float
):
    playground.write("Tools", TOOLS)
    playground.write("JSON schema", '{"type": "integer"}')
    playground.also_send(logit_bias={opening: bias})
    playground.ask("What is this?")
    (card,) = playground.finished()
    body = playground.sent[0]
    assert body["tool_choice"] == "auto"
    if bias > 0:
        check_calls(card, functions_of(api, {**body, "logit_bias": {opening: bias}}))
    else:
        expect(card.locator("caption")).to_have_text("Fields ✓ fits the schema")
        assert isinstance(json.loads(card.locator(".canvas").text_content() or ""), int)


@browser_test
@pytest.mark.parametrize(("text", "told"), [("[", "The tools are not JSON"), ("{}", "they are not an array")])
def test_tools_that_are_no_json_array_are_not_sent(playground: Playground, text: str, told: str):
    playground.write("Tools", text)
    playground.ask("What is this?")
    expect(playground.page.get_by_role("alert")).to_contain_text(told)
    playground.write("Tools", "[]")
    playground.ask("What is this?")
    playground.finished()
    (sent,) = playground.sent
    assert {"tools", "tool_choice"}.isdisjoint(sent)


@browser_test
def test_the_choice_of_a_function_that_is_gone_is_auto(playground: Playground):
    playground.write("Tools", TOOLS)
    playground.page.get_by_label("Tool choice").select_option("stop")
    playground.write("Tools", TOOLS.replace('"stop"', '"end"'))
    expect(playground.page.get_by_label("Tool choice")).to_have_value("auto")


@browser_test
def test_the_warnings_of_an_answer_are_shown(playground: Playground):
    playground.write("Tools", TOOLS)
    playground.set(max_tokens="8")
    playground.ask("What is this?")
    (card,) = playground.finished()
    expect(card.get_by_label("Warnings")).to_have_text("tools has no effect: no call fits in max_tokens")
