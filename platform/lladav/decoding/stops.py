"""What ends an answer: sequences of ids, and texts, which may begin and end inside tokens.

A stop counts as soon as it stands among adjacent revealed tokens, even where places before it are masked.

Tokens are bytes, and a character may be spread over several tokens. Stop texts are searched in the text of
the answer: UTF-8, with U+FFFD for bytes that are not UTF-8. Bytes at the edge of revealed tokens, which a
neighbour may still complete to a character, do not count yet.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

INVALID = "\N{REPLACEMENT CHARACTER}"
"""What a text shows for bytes that are not UTF-8."""


def first_stop(tokens_G: np.ndarray, stops: Sequence[Sequence[int]]) -> End | None:
    """Where the earliest of the id sequences begins, if there is one."""
    found = []
    for stop in stops:
        if len(stop) <= len(tokens_G):
            windows = np.lib.stride_tricks.sliding_window_view(tokens_G, len(stop))
            found += np.flatnonzero((windows == np.array(stop)).all(-1))[:1].tolist()
    return End(min(found)) if found else None


def beginning_of_stop(tokens: np.ndarray, stops: Sequence[Sequence[int]]) -> int:
    """How many tokens at the end may turn out to be the beginning of a stop."""
    return max((_overlap(tokens, stop) for stop in stops), default=0)


def _overlap(tokens: np.ndarray, stop: Sequence[int]) -> int:
    longest = min(len(stop) - 1, len(tokens))
    return next((n for n in range(longest, 0, -1) if tokens[-n:].tolist() == list(stop[:n])), 0)


@dataclass(frozen=True)
class End:
    """How many tokens an answer has, and how many bytes at the end of the last one belong to a stop."""

    tokens: int
    excess: int = 0


class StopTexts:
    """Texts that end an answer; they are not part of its text."""

    def __init__(self, texts: Sequence[str], token_bytes: Callable[[int], bytes]) -> None:
        """``token_bytes`` gives the UTF-8 bytes of an id. Raises ``ValueError`` for an empty text."""
        if not all(texts):
            raise ValueError("an empty stop text ends every answer")
        self._texts, self._token_bytes = tuple(texts), token_bytes

    def end(self, tokens_G: np.ndarray, masked_G: np.ndarray) -> End | None:
        """Where the first stop begins, if there is one; ``masked_G`` are places that may still be filled."""
        for start, stop in _runs(masked_G):
            sizes, data = self._joined(tokens_G[start:stop])
            lead = _continuation_bytes(data) if start else 0
            text = _shown(data[lead:], whole=stop == len(tokens_G))
            if places := [place for each in self._texts if (place := text.find(each)) >= 0]:
                begin = lead + _byte_of_character(data[lead:], min(places))
                kept = bisect_left(sizes, begin)
                return End(start + kept, sizes[kept] - begin)
        return None

    def beginning(self, tokens: Sequence[int]) -> int:
        """How many tokens at the end may turn out to have the beginning of a stop."""
        sizes, data = self._joined(tokens)
        text, pending = _split(data)
        longest = max((_overlapping(text, stop, pending) for stop in self._texts), default=-1)
        if longest < 0:
            return 0
        begin = _byte_of_character(data, len(text) - longest)
        return len(tokens) - (bisect_right(sizes, begin) - 1)

    def _joined(self, tokens: Sequence[int] | np.ndarray) -> tuple[list[int], bytes]:
        """How many bytes the first 0, 1, 2 ... tokens have, and all of these bytes."""
        pieces = [self._token_bytes(int(token)) for token in tokens]
        return list(accumulate(map(len, pieces), initial=0)), b"".join(pieces)


def _overlapping(text: str, stop: str, pending: bytes) -> int:
    """Length of the longest prefix of ``stop`` at the end of ``text`` that may still be completed; -1: none.

    ``pending`` are the bytes behind the text, the beginning of a character.
    """
    for length in range(min(len(stop) - 1, len(text)), -1, -1):
        if text.endswith(stop[:length]) and _may_follow(stop[length], pending, length):
            return length
    return -1


def _may_follow(character: str, pending: bytes, length: int) -> bool:
    """Whether the character may come of pending bytes; where there are none anything follows a beginning."""
    if not pending:
        return length > 0
    return character == INVALID or character.encode("utf-8", "surrogatepass").startswith(pending)


def _continuation_bytes(data: bytes) -> int:
    """How many bytes at the beginning may belong to a character that begins before them."""
    others = (place for place, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80)
    return next(others, min(3, len(data)))


def _split(data: bytes) -> tuple[str, bytes]:
    """The text of bytes, and the beginning of a character that is left at their end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, decoder.getstate()[0]


def _shown(data: bytes, whole: bool) -> str:
    return data.decode("utf-8", "replace") if whole else _split(data)[0]


def _byte_of_character(data: bytes, place: int) -> int:
    """Where the character at a place of the text begins."""
    bounds = range(len(data) + 1)
    return bisect_right(bounds, place, key=lambda bound: len(data[:bound].decode("utf-8", "replace"))) - 1


def _runs(masked_G: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of places that are not masked."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~masked_G, [False])).astype(int)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
