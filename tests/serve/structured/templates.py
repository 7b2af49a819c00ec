"""Builds schemas, their templates with the golden tokenizer, and decoded canvases with given slot texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lladav.inputs.chat import ChatTokenizer
from serve.structured import JsonTemplate

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
EOT, EOS = TOKENIZER.ids.eot, TOKENIZER.ids.eos
VALUE_TOKENS = 6

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BOOLEAN, NULL = {"type": "boolean"}, {"type": "null"}


def template(schema: object, max_tokens: int = 10_000, characters: int = 100_000) -> JsonTemplate:
    return JsonTemplate(schema, TOKENIZER, VALUE_TOKENS, max_tokens, characters)


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def array(items: Any, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def slots(made: JsonTemplate) -> list[list[int]]:
    """Runs of positions that are not fixed."""
    runs: list[list[int]] = []
    for position in sorted(set(range(made.length)) - set(made.infill)):
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def canvas(made: JsonTemplate, *texts: str | list[int]) -> list[int]:
    """The canvas with these texts in its slots, padded."""
    tokens = [made.infill.get(position, EOT) for position in range(made.length)]
    for positions, text in zip(slots(made), texts, strict=True):
        ids = TOKENIZER.encode(text) if isinstance(text, str) else text
        assert len(ids) <= len(positions)
        for position, token in zip(positions, ids, strict=False):
            tokens[position] = token
    return tokens
