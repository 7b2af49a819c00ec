"""Checks with instructor, in all of its modes for OpenAI's API."""

# pyright: reportMissingImports=false
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import instructor
import openai
from checks import BASE, IMAGE, KEY, MODEL, Checks
from instructor.core.exceptions import IncompleteOutputException
from pydantic import BaseModel, Field

checks = Checks("instructor")
TEXT: Any = "How many digits?"


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


class AnyObject(BaseModel):
    """Any JSON object: this mode asks for one, and describes its fields only in a message."""


def client(mode: str) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=BASE, api_key=KEY), mode=instructor.Mode[mode])


def ask(mode: str, kind: Any = Weather, text: Any = TEXT) -> Any:
    messages = [{"role": "user", "content": text}]
    return client(mode).create(model=MODEL, messages=messages, response_model=kind, max_retries=0)


def check_of(mode: str) -> Callable[[], None]:
    def check() -> None:
        assert isinstance(ask(mode), Weather)

    return check


for each in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"):
    checks(each)(check_of(each))


@checks("PARALLEL_TOOLS (calls or text, as the model decides)")
def _() -> None:
    with contextlib.suppress(IncompleteOutputException):  # of a text without end
        made = list(ask("PARALLEL_TOOLS", Iterable[Weather]))
        assert all(isinstance(each, Weather) for each in made)


@checks("JSON (any object)")
def _() -> None:
    assert isinstance(ask("JSON", AnyObject), AnyObject)


@checks("images")
def _() -> None:
    assert isinstance(ask("TOOLS", text=["Which?", instructor.Image.from_base64(IMAGE)]), Weather)


@checks("partial streams")
def _() -> None:
    messages = [{"role": "user", "content": TEXT}]
    made = client("TOOLS").create_partial(model=MODEL, messages=messages, response_model=Weather)
    assert list(made)[-1].days


checks.run()
