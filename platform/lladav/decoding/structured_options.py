"""Settings of an answer that has a structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lladav.decoding.params import REPETITION
from lladav.structured.compiling import Structure


def with_structure(settings: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
    """Return fields of ``DecodingOptions`` for an answer that has a structure.

    ``settings`` are those that it would have without one. The canvas gets the length of the longest answer,
    so ``steps`` become a number of tokens per step. Nothing but the structure ends the answer.
    """
    longest = structure.max_tokens
    others = {name: value for name, value in settings.items() if name not in REPETITION}
    found = {**others, "outline": structure.outline, "max_tokens": longest, "stop": ()}
    if (steps := found.pop("steps", None)) is not None:
        found["tokens_per_step"] = -(-longest // steps)
    if (block_length := found.get("block_length")) is not None:
        found["block_length"] = min(block_length, longest)
    return found
