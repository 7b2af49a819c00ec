"""Checks with Haystack: its chat generator with texts, images, tools, schemas and streams."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

from checks import BASE, IMAGE, MODEL, Checks
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel, Field

checks = Checks("haystack-ai")
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
}


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def generator(**given: Any) -> OpenAIChatGenerator:
    key = Secret.from_token("none")
    return OpenAIChatGenerator(api_key=key, model=MODEL, api_base_url=BASE, max_retries=0, **given)


def answer(messages: Any, **given: Any) -> ChatMessage:
    return generator(**given).run(messages)["replies"][0]


@checks("text")
def _() -> None:
    messages = [ChatMessage.from_system("Be short."), ChatMessage.from_user("How many?")]
    assert answer(messages, generation_kwargs={"max_completion_tokens": 16, "seed": 1}).text


@checks("images")
def _() -> None:
    picture = ImageContent(IMAGE.partition(",")[2], "image/png")
    assert answer([ChatMessage.from_user(content_parts=["Which colour?", picture])]).text


@checks("streams")
def _() -> None:
    parts: list[str] = []
    answer([ChatMessage.from_user("How many?")], streaming_callback=lambda chunk: parts.append(chunk.content))
    assert "".join(parts)


@checks("structured output")
def _() -> None:
    made = answer([ChatMessage.from_user("How many?")], generation_kwargs={"response_format": Weather})
    Weather.model_validate_json(made.text or "")


@checks("tools")
def _() -> None:
    tool = Tool("weather", "Ask for the weather of a city.", PARAMETERS, lambda city: f"{city}: sunny")
    asked = ChatMessage.from_user("How many?")
    made = answer([asked], tools=[tool], generation_kwargs={"tool_choice": "required"})
    assert set(made.tool_calls[0].arguments) == {"city"}
    results = [ChatMessage.from_tool("sunny", origin=call) for call in made.tool_calls]
    assert answer([asked, made, *results], tools=[tool], generation_kwargs={"tool_choice": "none"}).text


checks.run()
