"""Calls of tools about images, for training: definitions as in prompts, and calls as a server frames them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.digits.json_answers import FACTS, JsonPart, frame
from data.digits.questions import choose
from lladav.inputs.chat import SYSTEM_PROMPT
from lladav.inputs.tool_text import CALL_END, call_start, system_text

NAMES = ("save_reading", "save_digits", "store_result", "report")
DESCRIPTIONS = ("Save the digits of a picture.", "Store what a picture shows.", "Report the digits.")
OTHER_FACTS_SHARE = 0.25
"""Share of the calls in which an argument besides the digits is asked for, for each of the others."""
LARGEST_SUM = 27


def tool(facts: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """A function with the given facts about digits as arguments, in OpenAI's form."""
    schema = {
        "type": "object",
        "properties": {fact: _schema(fact, rng) for fact in facts},
        "required": list(facts),
        "additionalProperties": False,
    }
    return {"name": choose(NAMES, rng), "description": choose(DESCRIPTIONS, rng), "parameters": schema}


def random_facts(rng: np.random.Generator) -> list[str]:
    """The digits, and some other facts."""
    return [fact for fact in FACTS if fact == "digits" or rng.random() < OTHER_FACTS_SHARE]


def system_message(function: dict[str, Any]) -> str:
    """The system message of a prompt with one tool."""
    return system_text([SYSTEM_PROMPT], [function])


def call(function: dict[str, Any], digits: Sequence[int], rng: np.random.Generator) -> list[JsonPart]:
    """The parts of the call with the facts about digits."""
    values = {fact: FACTS[fact](digits) for fact in function["parameters"]["properties"]}
    return [JsonPart(call_start(function["name"])), *frame(values, rng), JsonPart(CALL_END)]


def _schema(fact: str, rng: np.random.Generator) -> dict[str, Any]:
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    if fact == "digits":
        return {"type": "array", "items": digit, "minItems": 1, "maxItems": int(rng.integers(3, 10))}
    if fact == "parity_of_sum":
        return {"enum": ["even", "odd"]}
    return {**digit, "maximum": LARGEST_SUM} if fact == "sum" else digit
