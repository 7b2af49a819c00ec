"""Assigns the bytes of a structured answer to the tokens of its canvas.

The JSON text is not always the text of the tokens: a number may be clamped to its bounds, an empty array item
is dropped. Each part of the JSON text is divided among the tokens of its own positions. The bytes of all
tokens, joined, are the JSON text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRun:
    """A part of the JSON text and the positions of the slot that it was read from; None for fixed text."""

    text: str
    positions: range | None = None


def bytes_of_tokens(runs: Iterable[TokenRun], token_bytes: Sequence[bytes]) -> list[bytes]:
    """The bytes of the JSON text that belong to each token.

    ``token_bytes`` are the bytes that the tokens themselves stand for.
    """
    assigned, left = list[bytes](), b""
    for data, end in _groups(runs, len(token_bytes)):
        own, left = _assign(left + data, token_bytes[len(assigned) : end])
        assigned += own
    if assigned:
        assigned[-1] += left
    return assigned


def _groups(runs: Iterable[TokenRun], length: int) -> Iterator[tuple[bytes, int]]:
    """The text of each slot and of each gap between slots, with the position where its tokens end."""
    fixed = ""
    for run in runs:
        if run.positions is None:
            fixed += run.text
            continue
        yield fixed.encode(errors="replace"), run.positions.start
        yield run.text.encode(errors="replace"), run.positions.stop
        fixed = ""
    yield fixed.encode(errors="replace"), length


def _assign(data: bytes, token_bytes: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """The part of ``data`` for each token, and what is left for the next group.

    A token gets its own bytes where ``data`` continues with them. The last token also gets the rest. Without
    tokens, all bytes are left.
    """
    assigned, offset = list[bytes](), 0
    for own in token_bytes:
        assigned.append(next((each for each in (own, own.strip()) if data.startswith(each, offset)), b""))
        offset += len(assigned[-1])
    if not assigned:
        return assigned, data
    assigned[-1] += data[offset:]
    return assigned, b""
