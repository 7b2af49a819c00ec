"""What ends an answer: sequences of ids, and texts wherever tokens begin and end in them.

A stop counts as soon as it stands among revealed tokens side by side, whatever is still masked before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


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
    """How many tokens an answer has, and how many characters at the end of the last are a stop's already."""

    tokens: int
    excess: int = 0


class StopTexts:
    """Texts that end an answer; they are not part of its text."""

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        """``decode`` gives the text of ids. Raises ``ValueError`` for an empty text."""
        if not all(texts):
            raise ValueError("an empty text stops everything")
        self._texts, self._decode = tuple(texts), decode

    def end(self, tokens_G: np.ndarray, mask_id: int) -> End | None:
        """Where the first stop begins, if there is one."""
        for start, run in _runs(tokens_G, mask_id):
            text = self._decode(run)
            if places := [place for stop in self._texts if (place := text.find(stop)) >= 0]:
                lengths = (len(self._decode(run[:n])) for n in range(len(run) + 1))
                kept, length = next((n, found) for n, found in enumerate(lengths) if found >= min(places))
                return End(start + kept, length - min(places))
        return None

    def beginning(self, tokens: Sequence[int]) -> int:
        """How many tokens at the end may turn out to have the beginning of a stop."""
        text = self._decode(tokens)
        lengths = ((stop, n) for stop in self._texts for n in range(1, min(len(stop), len(text) + 1)))
        longest = max((n for stop, n in lengths if text.endswith(stop[:n])), default=0)
        if not longest:
            return 0
        whole = next(
            n for n in range(len(tokens), -1, -1) if len(self._decode(tokens[:n])) <= len(text) - longest
        )
        return len(tokens) - whole


def _runs(tokens_G: np.ndarray, mask_id: int) -> Iterator[tuple[int, list[int]]]:
    """Revealed tokens side by side, and where they begin."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], tokens_G != mask_id, [False])).astype(int)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield start, tokens_G[start:end].tolist()
