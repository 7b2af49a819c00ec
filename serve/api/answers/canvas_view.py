"""The ``denoise`` field of a stream: the canvas before the first step, and what each step unmasked.

The canvas of an answer that has a structure grows with the choices of the model. Other canvases have their
final size from the beginning, also one whose answer turns out to have a structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.outline import Fixed, Outline
from serve.api.answers.response_forms import Token
from serve.api.planning.planner import PreparedRequest
from serve.engine.messages import Delta


class CanvasView:
    """The canvas of one answer as a stream shows it."""

    def __init__(self, prepared: PreparedRequest, choice: int, tokenizer: ChatTokenizer) -> None:
        self._choice, self._token_bytes, self._limit_of = choice, tokenizer.token_bytes, prepared.limit
        outline = prepared.outline
        self._skeleton = {} if outline is None else dict(_fixed_tokens(outline))
        self._size = prepared.max_tokens if outline is None else _length(outline)

    def blank(self) -> dict[str, Any]:
        """The canvas before the first step: masks, and the skeleton of a structure."""
        skeleton = self._skeleton.items()
        return self._field(0, 0, [(place, token, self._token_bytes(token), 1.0) for place, token in skeleton])

    def step(self, delta: Delta) -> dict[str, Any]:
        """The tokens that a step unmasked.

        Text after the end of the answer is left out, so that no stop is ever shown as a whole.
        """
        unmasked, end, filled = delta.unmasked, delta.end, []
        limit = self._limit_of(delta.follows_outline)
        tokens = zip(unmasked.positions, unmasked.tokens, unmasked.confidences, strict=True)
        for place, token, confidence in tokens:
            data = self._token_bytes(token)
            if place == end - 1:
                data = data[: len(data) - delta.excess]
            if (place < end or not data) and place not in self._skeleton:
                filled.append((place, token, data, confidence))
                self._size = min(max(self._size, place + 1), limit)
        return self._field(delta.step, delta.committed, filled)

    def _field(
        self, step: int, committed: int, filled: Sequence[tuple[int, int, bytes, float]]
    ) -> dict[str, Any]:
        reveal = [
            {"place": place, "token": token, "text": Token(data, confidence).text, "confidence": confidence}
            for place, token, data, confidence in filled
            if place < self._size
        ]
        return {
            "index": self._choice,
            "step": step,
            "canvas": self._size,
            "reveal": reveal,
            "committed": min(committed, self._size),
        }


def _fixed_tokens(outline: Outline) -> Iterator[tuple[int, int]]:
    """Position and id of each fixed token before the first choice."""
    position = 0
    for piece in outline.pieces:
        if isinstance(piece, Fixed):
            yield from enumerate(piece.ids, position)
        position += piece.length


def _length(outline: Outline) -> int:
    """Positions before the first choice."""
    return sum(piece.length for piece in outline.pieces)
