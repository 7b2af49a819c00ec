"""Answers as JSON, for training: the whole answer as text, or only the values in a given frame.

A server that binds an answer to a schema writes everything that the schema fixes, and the model fills the
values in. A value may be shorter than its slot; padding follows it. Of a string, the text between the fixed
quotation marks is the value, so padding stands in front of the closing one. The parts of an answer here say
which text is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.digits.questions import choose

REQUESTS = (
    "Answer as JSON.",
    "Answer in JSON.",
    "Reply with a JSON object.",
    "Answer with JSON that fits the schema.",
)
"""Sentences that ask for JSON."""

MAX_PADDING = {"string": 9, "number": 2, "word": 2}
"""Longest padding of a value by its kind."""

BARE_SHARE = 0.15
"""Share of the framed answers that are the value alone."""

Value = str | int | list[str] | list[int]


class JsonPart(NamedTuple):
    """A part of the text of an answer."""

    text: str
    is_value: bool = False
    """Whether the model fills it in; the rest is given."""
    padding: int = 0
    """Positions behind a value that are padding."""


def value_of(answer: str) -> Value:
    """The JSON value of an answer: a list of readings, a word, a number below 100, else a text of digits."""
    if ", " in answer and "=" not in answer:
        return answer.split(", ")
    if found := re.search(r"Answer: (\d+)$", answer):
        return int(found[1])
    return answer


def is_number(question: str) -> bool:
    """Whether a question asks for a number or a digit, not for a text of digits."""
    return not re.search("^(Read|Which digits|What digits)|each image|of the .* image|video", question)


def standard(question: str, answer: str) -> str:
    """The text of the object that a question for JSON without a schema gets: always the same one."""
    return json.dumps({"answer": _typed(question, answer)})


def framed(
    question: str, answer: str, rng: np.random.Generator, bare_share: float = BARE_SHARE
) -> list[JsonPart]:
    """The parts of an object with the answer, as a schema may demand it, or sometimes of the value alone."""
    value = _typed(question, answer)
    if rng.random() < bare_share:
        return frame(value, rng)
    key = "answer" if rng.random() < 0.7 else choose(_keys(question, value), rng)
    if isinstance(value, str) and value.isdigit() and rng.random() < 0.3:
        return frame({"digits": [int(digit) for digit in value]}, rng)
    steps = {"steps": answer.split(". ")[0]} if "=" in answer and rng.random() < 0.4 else {}
    return frame({**steps, key: value}, rng)


def form(digits: Sequence[int], rng: np.random.Generator) -> list[JsonPart]:
    """An object with several facts about an image."""
    names = [name for name in FACTS if name == "digits" or rng.random() < 0.6]
    names = names if rng.random() < 0.6 else rng.permutation(names).tolist()
    return frame({name: FACTS[name](digits) for name in names}, rng)


def frame(value: Value | Mapping[str, Value], rng: np.random.Generator) -> list[JsonPart]:
    """The parts of a value or an object with values, with padding of random length behind each."""
    return _object(value, rng) if isinstance(value, Mapping) else _value(value, rng)


def whole_text(parts: Sequence[JsonPart]) -> str:
    """The text of an answer."""
    return "".join(part.text for part in parts)


FACTS: dict[str, Callable[[Sequence[int]], Value]] = {
    "digits": list,
    "count": len,
    "largest": max,
    "smallest": min,
    "first": lambda digits: digits[0],
    "last": lambda digits: digits[-1],
    "sum": sum,
    "parity_of_sum": lambda digits: "odd" if sum(digits) % 2 else "even",
}
"""Facts about digits by the name of the property."""


def _typed(question: str, answer: str) -> Value:
    value = value_of(answer)
    return int(value) if isinstance(value, str) and value.isdigit() and is_number(question) else value


def _keys(question: str, value: Value) -> Sequence[str]:
    if isinstance(value, list):
        return ("images", "readings", "answers")
    if isinstance(value, str):
        return ("value", "result", "text")
    return ("value", "result", "sum" if "Add" in question else "number")


def _object(values: Mapping[str, Value], rng: np.random.Generator) -> list[JsonPart]:
    parts = [JsonPart("{")]
    for number, (key, value) in enumerate(values.items()):
        parts += [JsonPart(f"{', ' if number else ''}{json.dumps(key)}: "), *_value(value, rng)]
    return [*parts, JsonPart("}")]


def _value(value: Value, rng: np.random.Generator) -> list[JsonPart]:
    if isinstance(value, list):
        return _array(value, rng)
    kind = "number" if isinstance(value, int) else "word" if value.isalpha() else "string"
    padding = int(rng.integers(MAX_PADDING[kind] + 1))
    if isinstance(value, int):
        return [JsonPart(str(value), True, padding)]
    # A word is one token, which fills the slot of an enum. It draws too: later draws decide the tokenizer.
    padding = 0 if kind == "word" else padding
    return [JsonPart('"'), JsonPart(json.dumps(value)[1:-1], True, padding), JsonPart('"')]


def _array(values: Sequence[str] | Sequence[int], rng: np.random.Generator) -> list[JsonPart]:
    parts = [JsonPart("[")]
    for number, value in enumerate(values):
        parts += [JsonPart(", ")] if number else []
        # A digit fills its slot; a reading is shorter than the longest one.
        parts += [JsonPart(str(value), True)] if isinstance(value, int) else _value(value, rng)
    return [*parts, JsonPart("]")]
