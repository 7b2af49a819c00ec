"""Suppression of repeated n-grams: which tokens would repeat what an answer already says.

A token is suppressed at a position if an n-gram that it completes there would occur twice in the answer.
N-grams of the prompt do not count. A token completes an n-gram at its end, at its beginning or inside it,
because masks are filled in any order.

Shapes: G canvas positions, N tokens of an n-gram, S n-grams of the canvas by their start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

import numpy as np


def repeating_tokens(
    tokens_G: np.ndarray, written_G: np.ndarray, candidates: Collection[int], size: int
) -> dict[int, list[int]]:
    """Tokens, in ascending order, that would repeat an n-gram of ``size`` tokens, for each of the candidates.

    Candidates without such a token are left out. ``written_G`` is true where the answer has a token.
    """
    if len(tokens_G) < size:
        return {}
    ngrams_SN = np.lib.stride_tricks.sliding_window_view(tokens_G, size)
    written_SN = np.lib.stride_tricks.sliding_window_view(written_G, size)
    whole_SN = ngrams_SN[written_SN.all(-1)]
    # N-grams that lack one token, by the position of this token.
    incomplete: dict[int, list[int]] = defaultdict(list)
    for start in np.flatnonzero(written_SN.sum(-1) == size - 1).tolist():
        incomplete[start + int(written_SN[start].argmin())].append(start)
    found = {
        position: {
            *_completing(ngrams_SN, starts, position, whole_SN),
            *_equalizing(ngrams_SN, starts, position),
        }
        for position, starts in incomplete.items()
        if position in candidates
    }
    return {position: sorted(tokens) for position, tokens in found.items() if tokens}


def _completing(
    ngrams_SN: np.ndarray, starts: Sequence[int], position: int, whole_SN: np.ndarray
) -> Iterator[int]:
    """Tokens with which an n-gram at one of ``starts`` becomes one of the whole n-grams."""
    for start in starts:
        others_N = np.arange(ngrams_SN.shape[-1]) != position - start
        same_S = (whole_SN[:, others_N] == ngrams_SN[start, others_N]).all(-1)
        yield from whole_SN[same_S, position - start].tolist()


def _equalizing(ngrams_SN: np.ndarray, starts: Sequence[int], position: int) -> Iterator[int]:
    """Tokens with which the n-grams at two of ``starts`` become equal."""
    for first, second in combinations(starts, 2):
        token = ngrams_SN[second, position - first]
        one_N, other_N = ngrams_SN[first].copy(), ngrams_SN[second].copy()
        one_N[position - first] = other_N[position - second] = token
        if (one_N == other_N).all():
            yield int(token)
