"""The figures of the shipped model's card, measured again on a part of the held-out questions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from PIL import Image

import lladav
from data.digits import preparation, records, writers
from data.digits.questions import Split
from lladav.checkpoint import open_model, shipped_model
from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.inputs.chat import ChatTokenizer
from lladav.model.llada_v import LLaDAV
from lladav.structured.compiling import StructureKind, StructureSpec
from tests.serve.apis import NAME, LocalEngines, serving, settings_of
from train.evaluate import BATCH, decoding_options
from train.evaluation.held_out import Answered, Question, answer_questions, read_questions, with_suffixes

BOUND = 0.9
"""Exact match below which something is broken; the card has the figure of all questions."""

EVERY = 6
"""Every sixth question of the test half is asked: 120 of 720."""
EXAMPLES = Path("serve/playground/static/examples")
"""Images of the playground."""


@pytest.fixture(scope="module")
def config() -> Config:
    return load(["stage=ov_vw", "model=tiny", "data=digits"])


@pytest.fixture(scope="module")
def model() -> LLaDAV:
    return open_model(shipped_model(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(shipped_model())


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, config: Config) -> list[Question]:
    folder = tmp_path_factory.mktemp("held_out")
    asked = list(records.held_out(Split.test, preparation.SEED))[::EVERY]
    writers.write_questions(asked, folder)
    return with_suffixes(read_questions(folder, Split.test), config.stage.suffixes)


@pytest.mark.slow
def test_held_out_questions_are_answered(
    model: LLaDAV, tokenizer: ChatTokenizer, questions: list[Question], config: Config
):
    options = decoding_options(config, tokenizer.ids)
    answered = list(answer_questions(model, tokenizer, questions, options, BATCH))
    assert len(answered) == 120
    assert share_correct(answered) >= BOUND


def test_json_costs_no_accuracy(model: LLaDAV, tokenizer: ChatTokenizer, questions: list[Question]):
    counted = [question for question in questions if question.type == "count"]
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    spec = StructureSpec(StructureKind.json_schema, json.dumps(schema))
    right = [
        json.loads(ask(model, tokenizer, each.text, each.media, spec)) == {"answer": int(each.answer)}
        for each in counted
    ]
    assert len(right) == 10
    assert sum(right) >= 9


@pytest.mark.parametrize(
    ("question", "images", "answer"),
    [
        ("Which digits are in the picture?", ["digits.png"], "385"),
        ("Add the first and the last digit. Think step by step.", ["sum.png"], "4+8=12. Answer: 12"),
        ("Read the digits of each image.", ["several-1.png", "several-2.png", "several-3.png"], "46, 417, 9"),
    ],
)
@pytest.mark.parametrize("refresh_interval", [1, 4])
def test_the_playgrounds_examples_are_answered(
    model: LLaDAV,
    tokenizer: ChatTokenizer,
    question: str,
    images: list[str],
    answer: str,
    refresh_interval: int,
):
    files = [EXAMPLES / name for name in images]
    assert ask(model, tokenizer, question, files, refresh_interval=refresh_interval) == answer


def test_the_playgrounds_form_is_filled_in(model: LLaDAV, tokenizer: ChatTokenizer):
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    digits = {"type": "array", "items": digit, "minItems": 1, "maxItems": 6}
    properties = {"digits": digits, "count": digit, "first": digit, "last": digit}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    spec = StructureSpec(StructureKind.json_schema, json.dumps({**schema, "additionalProperties": False}))
    answer = ask(model, tokenizer, "Which digits are in the picture?", [EXAMPLES / "digits.png"], spec)
    assert json.loads(answer) == {"digits": [3, 8, 5], "count": 3, "first": 3, "last": 5}


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The address of a server with the shipped model and its settings for one machine."""
    settings = settings_of(shipped_model())
    engines = LocalEngines(settings)
    with serving(settings, engines) as address:
        yield address
    engines.worker.stop()


def test_the_playgrounds_tool_is_called_with_the_digits(api: str):
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    properties = {"digits": {"type": "array", "items": digit, "minItems": 1, "maxItems": 6}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["digits"],
        "additionalProperties": False,
    }
    function = {"name": "save_reading", "description": "Save the digits of a picture.", "parameters": schema}
    message = asked_of("Which digits are in the picture?", "image", "digits.png", "image/png")
    answer = answered_by(
        api, message, tools=[{"type": "function", "function": function}], tool_choice="required"
    )
    (call,) = answer["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"digits": [3, 8, 5]}


def test_the_playgrounds_clip_is_read(api: str):
    message = asked_of("Which digits does the video show, in order?", "video", "clip.webm", "video/webm")
    assert answered_by(api, message)["content"] == "347"


def asked_of(question: str, kind: str, name: str, media_type: str) -> dict[str, Any]:
    """A user's message about a file of the playground."""
    text = base64.b64encode((EXAMPLES / name).read_bytes()).decode()
    media = {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{media_type};base64,{text}"}}
    return {"role": "user", "content": [media, {"type": "text", "text": question}]}


def answered_by(api: str, message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The message that a server answers."""
    body = {"model": NAME, "messages": [message], **fields}
    answer = httpx.post(f"{api}/v1/chat/completions", json=body, timeout=60).raise_for_status()
    return answer.json()["choices"][0]["message"]


def share_correct(answered: list[Answered]) -> float:
    return sum(each.correct for each in answered) / len(answered)


def ask(
    model: LLaDAV,
    tokenizer: ChatTokenizer,
    question: str,
    images: list[Path],
    structure: StructureSpec | None = None,
    refresh_interval: int = 1,
) -> str:
    """The answer with the settings of ``conf/serve/local.yaml``."""
    opened = [Image.open(file) for file in images]
    settings = {"max_tokens": 48, "block_length": 8, "refresh_interval": refresh_interval}
    return lladav.generate(model, opened, question, tokenizer=tokenizer, structure=structure, **settings).text
