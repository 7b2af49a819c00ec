"""Stops: token sequences and texts that end an answer.

A stop counts as soon as it stands among adjacent unmasked tokens, even where earlier positions are masked.

Tokens are bytes, and a character may be spread over several tokens. Stop texts are searched in the text of
the answer: UTF-8, with U+FFFD for bytes that are not UTF-8. Bytes at the edge of a run of unmasked tokens do
not count yet where a neighbour may complete them to a character.

Shapes: G canvas positions.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

INVALID = "\N{REPLACEMENT CHARACTER}"
"""What a text has for bytes that are not UTF-8."""


@dataclass(frozen=True)
class AnswerEnd:
    """Number of tokens of an answer, and of bytes at the end of the last one that belong to a stop."""

    tokens: int
    excess: int = 0


def find_stop(tokens_G: np.ndarray, stops: Sequence[Sequence[int]]) -> AnswerEnd | None:
    """The beginning of the earliest of the token sequences; None if there is none."""
    found = []
    for stop in stops:
        if len(stop) <= len(tokens_G):
            windows = np.lib.stride_tricks.sliding_window_view(tokens_G, len(stop))
            found += np.flatnonzero((windows == np.array(stop)).all(-1))[:1].tolist()
    return AnswerEnd(min(found)) if found else None


def partial_stop_length(tokens: np.ndarray, stops: Sequence[Sequence[int]]) -> int:
    """Number of tokens at the end that may turn out to be the beginning of a stop."""
    return max((_overlap(tokens, stop) for stop in stops), default=0)


def _overlap(tokens: np.ndarray, stop: Sequence[int]) -> int:
    longest = min(len(stop) - 1, len(tokens))
    return next((n for n in range(longest, 0, -1) if tokens[-n:].tolist() == list(stop[:n])), 0)


class StopTexts:
    """Texts that end an answer; they are not part of its text."""

    def __init__(self, texts: Sequence[str], token_bytes: Callable[[int], bytes]) -> None:
        """``token_bytes`` returns the UTF-8 bytes of a token. Raises ``ValueError`` for an empty text."""
        if not all(texts):
            raise ValueError("an empty stop text ends every answer")
        self._texts, self._token_bytes = tuple(texts), token_bytes

    def find(self, tokens_G: np.ndarray, masked_G: np.ndarray) -> AnswerEnd | None:
        """The beginning of the first stop, or None; ``masked_G`` is true for masks that may be filled."""
        for start, end in _unmasked_runs(masked_G):
            offsets, data = self._joined(tokens_G[start:end])
            # Bytes that a mask before or after the run may complete to a character are left out.
            lead = _continuation_bytes(data) if start else 0
            text = _complete_text(data[lead:], at_end=end == len(tokens_G))
            if indices := [index for each in self._texts if (index := text.find(each)) >= 0]:
                begin = lead + _byte_offset(data[lead:], min(indices))
                # Tokens without text before the stop are kept: a stream may have given them already.
                kept = bisect_right(offsets, begin) - 1
                kept += offsets[kept] < begin
                return AnswerEnd(start + kept, offsets[kept] - begin)
        return None

    def partial_length(self, tokens: Sequence[int]) -> int:
        """Number of tokens at the end that may turn out to contain the beginning of a stop."""
        offsets, data = self._joined(tokens)
        text, incomplete = _split_incomplete(data)
        longest = max((_partial_match(text, stop, incomplete) for stop in self._texts), default=-1)
        if longest < 0:
            return 0
        begin = _byte_offset(data, len(text) - longest)
        return len(tokens) - (bisect_right(offsets, begin) - 1)

    def _joined(self, tokens: Sequence[int] | np.ndarray) -> tuple[list[int], bytes]:
        """Byte offset of each token and of the end, and the bytes of all tokens."""
        pieces = [self._token_bytes(int(token)) for token in tokens]
        return list(accumulate(map(len, pieces), initial=0)), b"".join(pieces)


def _partial_match(text: str, stop: str, incomplete: bytes) -> int:
    """Length of the longest prefix of ``stop`` that ends ``text`` and may be completed; -1 for no match.

    ``incomplete`` holds the bytes after the text: the beginning of a character.
    """
    for length in range(min(len(stop) - 1, len(text)), -1, -1):
        if text.endswith(stop[:length]) and _may_follow(stop[length], incomplete, length):
            return length
    return -1


def _may_follow(character: str, incomplete: bytes, length: int) -> bool:
    """Whether the incomplete bytes may become ``character``; without any, every character may follow."""
    if not incomplete:
        return length > 0
    return character == INVALID or character.encode("utf-8", "surrogatepass").startswith(incomplete)


def _continuation_bytes(data: bytes) -> int:
    """Number of bytes at the beginning that may continue a character of the token before."""
    others = (index for index, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80)
    return next(others, min(3, len(data)))


def _split_incomplete(data: bytes) -> tuple[str, bytes]:
    """The text of complete characters, and the bytes at the end that begin another character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, decoder.getstate()[0]


def _complete_text(data: bytes, at_end: bool) -> str:
    """Text of the bytes; unless nothing follows them, without an incomplete character at the end."""
    return data.decode("utf-8", "replace") if at_end else _split_incomplete(data)[0]


def _byte_offset(data: bytes, index: int) -> int:
    """Offset of the first byte of the character at ``index`` of the text."""
    bounds = range(len(data) + 1)
    return bisect_right(bounds, index, key=lambda bound: len(data[:bound].decode("utf-8", "replace"))) - 1


def _unmasked_runs(masked_G: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each run of positions that are not masked."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~masked_G, [False])).astype(int)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
