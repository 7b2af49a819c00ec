"""Checks with pydantic-ai: agents with typed output, tools, images and streams."""

# pyright: reportMissingImports=false
from __future__ import annotations

import base64

from checks import BASE, IMAGE, KEY, MODEL, Checks
from pydantic import BaseModel, Field
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

checks = Checks("pydantic-ai-slim")
provider = OpenAIProvider(base_url=BASE, api_key=KEY)
model = OpenAIChatModel(MODEL, provider=provider)


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


@checks("text")
async def _() -> None:
    result = await Agent(model, instructions="Be short.").run("How many?")
    assert result.output
    again = await Agent(model).run("Why?", message_history=result.all_messages())
    assert again.output


@checks("images")
async def _() -> None:
    picture = BinaryContent(base64.b64decode(IMAGE.partition(",")[2]), media_type="image/png")
    assert (await Agent(model).run(["Which colour?", picture])).output


@checks("streams")
async def _() -> None:
    async with Agent(model).run_stream("How many?") as result:
        assert [text async for text in result.stream_text()]


@checks("tool output")
async def _() -> None:
    for output in (Weather, ToolOutput(Weather)):
        assert isinstance((await Agent(model, output_type=output).run("How many?")).output, Weather)


@checks("native output")
async def _() -> None:
    agent = Agent(model, output_type=NativeOutput(Weather))
    assert isinstance((await agent.run("How many?")).output, Weather)


@checks("tools")
async def _() -> None:
    asked: list[str] = []
    agent = Agent(model, output_type=[Weather, str], retries=0)

    @agent.tool_plain
    def weather(city: str) -> str:
        """Ask for the weather of a city."""
        asked.append(city)
        return "sunny"

    assert (await agent.run("How many?")).output


@checks("responses")
async def _() -> None:
    responses = OpenAIResponsesModel(MODEL, provider=provider)
    assert (await Agent(responses).run("How many?")).output
    agent = Agent(responses, output_type=NativeOutput(Weather))
    assert isinstance((await agent.run("How many?")).output, Weather)


checks.run()
