"""Checks with LiteLLM: chat, images, tools, responses and text completions."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from typing import Any

import litellm
from checks import BASE, IMAGE, KEY, MODEL, Checks
from pydantic import BaseModel, Field

checks = Checks("litellm")
GIVEN: dict[str, Any] = {"api_base": BASE, "api_key": KEY, "num_retries": 0}
QUESTION = [{"role": "user", "content": "How many?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Ask.", "parameters": PARAMETERS}}


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


def complete(**given: Any) -> Any:
    return litellm.completion(**{"model": f"hosted_vllm/{MODEL}", "messages": QUESTION, **GIVEN, **given})


@checks("text")
def _() -> None:
    for provider in ("openai", "hosted_vllm"):
        answer = complete(model=f"{provider}/{MODEL}", max_tokens=16, temperature=0.5, seed=1)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens


@checks("images")
def _() -> None:
    parts = [
        {"type": "text", "text": "Which colour?"},
        {"type": "image_url", "image_url": {"url": IMAGE, "format": "image/png"}},
    ]
    assert complete(messages=[{"role": "user", "content": parts}]).choices[0].message.content


@checks("streams")
def _() -> None:
    chunks = complete(stream=True, max_tokens=16)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@checks("structured output")
def _() -> None:
    answer = complete(response_format=Weather)
    Weather.model_validate_json(answer.choices[0].message.content)


@checks("tools")
def _() -> None:
    answer = complete(tools=[TOOL], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*QUESTION, answer.choices[0].message, result]
    assert complete(messages=history, tools=[TOOL], tool_choice="none").choices[0].message.content


@checks("extra fields")
def _() -> None:
    answer = complete(top_k=5, extra_body={"refresh_interval": 4, "chat_template_kwargs": {"x": 1}})
    assert answer.choices[0].message.content


@checks("responses")
def _() -> None:
    answer = litellm.responses(model=f"openai/{MODEL}", input="How many?", **GIVEN)
    assert answer.output[0].content[0].text


@checks("text completions")
def _() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt=["One, ", "Two, "], max_tokens=8, **GIVEN
    )
    assert len(answer.choices) == 2


@checks("async")
async def _() -> None:
    answer: Any = await litellm.acompletion(model=f"hosted_vllm/{MODEL}", messages=QUESTION, **GIVEN)
    assert answer.choices[0].message.content


checks.run()
