"""Which bytes of a structured answer each token of its canvas stands for.

An answer is read out of its tokens and written out as JSON, so its text is not always that of its tokens: a
number is moved into its bounds, an empty item is left out. Each part of the text is divided among the tokens
of its own places. The shares, joined, are the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRun:
    """Text of an answer; ``places`` are those of the window that it was read from, none for fixed text."""

    text: str
    places: range | None = None


def bytes_of_tokens(parts: Iterable[TokenRun], written: Sequence[bytes]) -> list[bytes]:
    """The share of each token in the text of ``parts``; ``written`` are the bytes that tokens stand for."""
    shares, left = list[bytes](), b""
    for data, end in _groups(parts, len(written)):
        own, left = _shared(left + data, written[len(shares) : end])
        shares += own
    if shares:
        shares[-1] += left
    return shares


def _groups(parts: Iterable[TokenRun], places: int) -> Iterator[tuple[bytes, int]]:
    """Bytes of a text between windows, or of a window, and the place where its tokens end."""
    fixed = ""
    for part in parts:
        if part.places is None:
            fixed += part.text
            continue
        yield fixed.encode(errors="replace"), part.places.start
        yield part.text.encode(errors="replace"), part.places.stop
        fixed = ""
    yield fixed.encode(errors="replace"), places


def _shared(data: bytes, written: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """Each token gets the bytes that it wrote, where they come next, and the last one what is left over.

    Without tokens all bytes are left to the next group.
    """
    shares, at = list[bytes](), 0
    for own in written:
        shares.append(next((each for each in (own, own.strip()) if data.startswith(each, at)), b""))
        at += len(shares[-1])
    if not shares:
        return shares, data
    shares[-1] += data[at:]
    return shares, b""
