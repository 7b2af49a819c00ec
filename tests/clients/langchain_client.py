"""Checks with LangChain: ``ChatOpenAI``, structured output in all methods, tools and an agent."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

from checks import BASE, IMAGE, KEY, MODEL, Checks
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

checks = Checks("langchain-openai")
llm = ChatOpenAI(base_url=BASE, api_key=KEY, model=MODEL, max_retries=0, max_tokens=256)


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


@tool
def weather(city: str, days: int) -> str:
    """Ask for the weather of a city."""
    return f"{city}: sunny for {days} days"


@checks("text")
def _() -> None:
    answer = llm.invoke([SystemMessage("Be short."), HumanMessage("How many digits?")])
    assert answer.content
    assert answer.usage_metadata["output_tokens"]


@checks("images")
def _() -> None:
    parts: list[Any] = [
        {"type": "text", "text": "Which colour?"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
    ]
    assert llm.invoke([HumanMessage(parts)]).content
    data = IMAGE.partition(",")[2]
    standard: list[Any] = [parts[0], {"type": "image", "base64": data, "mime_type": "image/png"}]
    assert llm.invoke([HumanMessage(standard)]).content


@checks("streams")
def _() -> None:
    chunks = list(llm.stream("How many digits?"))
    assert "".join(str(chunk.content) for chunk in chunks)


@checks("structured output")
def _() -> None:
    for method in ("function_calling", "json_schema"):
        assert isinstance(llm.with_structured_output(Weather, method=method).invoke("How many?"), Weather)


@checks("JSON mode")
def _() -> None:
    made = llm.with_structured_output(None, method="json_mode").invoke("Answer in JSON.")
    assert isinstance(made, dict)


@checks("tools")
def _() -> None:
    bound = llm.bind_tools([weather], tool_choice="weather")
    call = bound.invoke("How many?").tool_calls[0]
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    history = [HumanMessage("How many?"), AIMessage("", tool_calls=[call]), result]
    assert llm.bind_tools([weather], tool_choice="none").invoke(history).content
    assert list(bound.stream("How many?"))[-1] is not None


@checks("agent")
def _() -> None:
    from langchain.agents import create_agent

    agent = create_agent(llm, [weather], system_prompt="Be short.")
    state = agent.invoke({"messages": [HumanMessage("How many?")]}, {"recursion_limit": 8})
    assert len(state["messages"]) > 1


@checks("responses")
def _() -> None:
    responses = ChatOpenAI(base_url=BASE, api_key=KEY, model=MODEL, use_responses_api=True, max_tokens=256)
    assert responses.invoke("How many?").text
    assert isinstance(responses.with_structured_output(Weather).invoke("How many?"), Weather)
    assert "".join(chunk.text for chunk in responses.stream("How many?"))


@checks("text completions")
def _() -> None:
    text = OpenAI(base_url=BASE, api_key=KEY, model=MODEL, max_tokens=8)
    assert len(text.generate(["One, ", "Two, "]).generations) == 2


@checks("async batch")
async def _() -> None:
    assert len(await llm.abatch(["How many?"] * 3)) == 3


checks.run()
