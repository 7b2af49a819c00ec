"""Schemas, their skeletons with the golden tokenizer, and canvases with texts in the windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lladav.inputs.chat import ChatTokenizer
from serve.structured import Skeleton

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
EOT, EOS = TOKENIZER.ids.eot, TOKENIZER.ids.eos
PLACES = 6

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BOOLEAN, NULL = {"type": "boolean"}, {"type": "null"}


def skeleton(schema: object, max_tokens: int = 10_000, characters: int = 100_000) -> Skeleton:
    return Skeleton(schema, TOKENIZER, PLACES, max_tokens, characters)


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def array(items: Any, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def windows(made: Skeleton) -> list[list[int]]:
    """Runs of places that are not fixed."""
    runs: list[list[int]] = []
    for place in sorted(set(range(made.max_tokens)) - set(made.infill)):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def canvas(made: Skeleton, *texts: str | list[int]) -> list[int]:
    """The canvas with these texts in its windows, padded."""
    tokens = [made.infill.get(place, EOT) for place in range(made.max_tokens)]
    for places, text in zip(windows(made), texts, strict=True):
        ids = TOKENIZER.encode(text) if isinstance(text, str) else text
        assert len(ids) <= len(places)
        for place, token in zip(places, ids, strict=False):
            tokens[place] = token
    return tokens
