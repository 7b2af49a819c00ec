"""Hashes of row numbers: permutations that no version of a random generator can change."""

from __future__ import annotations

import numpy as np

_GOLDEN, _SEED_STRIDE = 0x9E3779B97F4A7C15, 1_000_003
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def row_hashes(count: int, seed: int, number: int) -> np.ndarray:
    """A hash (uint64) of each row from 0 to ``count``, for permutation ``number`` of a seed.

    The mixing is invertible, so no two rows have the same hash. The hash of a row does not depend on
    ``count``.
    """
    salt = (seed * _SEED_STRIDE + number) * _GOLDEN % 2**64
    return _mixed(_mixed(np.arange(count, dtype=np.uint64)) + np.uint64(salt))


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64, which spreads neighbouring numbers over 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
