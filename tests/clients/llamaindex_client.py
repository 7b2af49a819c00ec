"""Checks with LlamaIndex: ``OpenAILike`` for chat, images, structured predictions and tools."""

# pyright: reportMissingImports=false
from __future__ import annotations

import base64

from checks import BASE, IMAGE, KEY, MODEL, Checks
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

checks = Checks("llama-index-llms-openai-like")
given = {"api_base": BASE, "api_key": KEY, "model": MODEL, "max_tokens": 256, "max_retries": 0}
llm = OpenAILike(**given, is_chat_model=True, is_function_calling_model=True, context_window=4096)


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


@checks("text")
def _() -> None:
    messages = [
        ChatMessage(role="system", content="Be short."),
        ChatMessage(role="user", content="How many?"),
    ]
    assert llm.chat(messages).message.content
    assert llm.complete("How many?").text


@checks("images")
def _() -> None:
    picture = ImageBlock(image=base64.b64decode(IMAGE.partition(",")[2]), image_mimetype="image/png")
    message = ChatMessage(role="user", blocks=[picture, TextBlock(text="Which colour?")])
    assert llm.chat([message]).message.content


@checks("streams")
def _() -> None:
    parts = [chunk.delta for chunk in llm.stream_chat([ChatMessage(role="user", content="How many?")])]
    assert "".join(part or "" for part in parts)


@checks("structured output")
def _() -> None:
    structured = llm.as_structured_llm(Weather)
    answer = structured.chat([ChatMessage(role="user", content="How many?")])
    assert isinstance(answer.raw, Weather)
    assert isinstance(llm.structured_predict(Weather, PromptTemplate("How many?")), Weather)


@checks("tools")
def _() -> None:
    def weather(city: str, days: int) -> str:
        """Ask for the weather of a city."""
        return f"{city}: sunny for {days} days"

    tool = FunctionTool.from_defaults(weather)
    answer = llm.chat_with_tools([tool], user_msg="How many?", tool_required=True)
    (call, *_) = llm.get_tool_calls_from_response(answer)
    assert set(call.tool_kwargs) == {"city", "days"}
    history = [ChatMessage(role="user", content="How many?"), answer.message]
    history += [
        ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": each.tool_id})
        for each in llm.get_tool_calls_from_response(answer)
    ]
    assert llm.chat(history).message.content


@checks("text completions")
def _() -> None:
    text = OpenAILike(**given, is_chat_model=False)
    assert text.complete("One, ").text


@checks("async")
async def _() -> None:
    assert (await llm.achat([ChatMessage(role="user", content="How many?")])).message.content


checks.run()
