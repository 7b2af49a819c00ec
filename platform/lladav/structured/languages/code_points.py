"""Sets of Unicode code points, and the partition of all code points that several sets cause.

A set is a sorted tuple of ranges, ends included, without overlap. Surrogates belong to no set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np

from lladav.structured.budget import SORTED_PER_STEP, Budget

CodePoints: TypeAlias = tuple[tuple[int, int], ...]

NUM_CODE_POINTS = 0x110000
SURROGATES = 0xD800, 0xDFFF
ANY: CodePoints = ((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, NUM_CODE_POINTS - 1))


def code_points(ranges: Iterable[tuple[int, int]]) -> CodePoints:
    """The set of some ranges, which may overlap and have surrogates."""
    return complement(complement(_merged(ranges)))


@lru_cache(maxsize=4096)
def characters(text: str) -> CodePoints:
    """The set of some characters."""
    return code_points((ord(each), ord(each)) for each in text)


def union(sets: Iterable[CodePoints]) -> CodePoints:
    """The code points of any of the sets."""
    return code_points(each for ranges in sets for each in ranges)


def complement(ranges: CodePoints) -> CodePoints:
    """All other code points."""
    outside, free = list[tuple[int, int]](), 0
    for first, last in _merged((*ranges, SURROGATES)):
        if free < first:
            outside.append((free, first - 1))
        free = last + 1
    return (*outside, (free, NUM_CODE_POINTS - 1)) if free < NUM_CODE_POINTS else tuple(outside)


def _merged(ranges: Iterable[tuple[int, int]]) -> CodePoints:
    """Ranges in order, those that overlap or touch as one."""
    merged = list[tuple[int, int]]()
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


@dataclass(frozen=True)
class Partition:
    """Cells of code points: two of a cell belong to the same sets. Cells are numbered from 0."""

    firsts: tuple[int, ...]
    """Where ranges begin; each ends before the next one."""
    cells: tuple[int, ...]
    """Cell of each range; -1 for surrogates."""

    @cached_property
    def representatives(self) -> list[int]:
        """One code point of each cell."""
        found = dict(zip(reversed(self.cells), reversed(self.firsts), strict=True))
        return [found[cell] for cell in range(self.num_cells)]

    @property
    def num_cells(self) -> int:
        return max(self.cells) + 1

    def cell_of_code_points(self) -> np.ndarray:
        """Cell of every code point."""
        ends = (*self.firsts[1:], NUM_CODE_POINTS)
        return np.repeat(np.array(self.cells, dtype=np.int32), np.subtract(ends, self.firsts))


def partition_of(sets: Iterable[CodePoints], budget: Budget) -> Partition:
    """The coarsest partition in which each set is a union of cells."""
    sets = [*dict.fromkeys(sets)]
    edges = {0, SURROGATES[0], SURROGATES[1] + 1}
    edges.update(each for ranges in sets for first, last in ranges for each in (first, last + 1))
    budget.spend(len(sets) + len(edges) * len(sets) // SORTED_PER_STEP)
    firsts = np.array(sorted(edges - {NUM_CODE_POINTS}))
    belongs = np.array([contains(ranges, firsts) for ranges in (ANY, *sets)])
    _, cells = np.unique(belongs, axis=1, return_inverse=True)
    # The column of surrogates sorts first, because they belong to no set.
    return Partition(tuple(firsts.tolist()), tuple((cells.reshape(-1) - 1).tolist()))


def contains(ranges: CodePoints, points: np.ndarray) -> np.ndarray:
    """Whether each of some code points belongs to a set."""
    bounds = np.array([each for first, last in ranges for each in (first, last + 1)])
    return np.searchsorted(bounds, points, side="right") % 2 == 1


def has_point(ranges: CodePoints, point: int) -> bool:
    """Whether a code point belongs to a set."""
    index = bisect_right(ranges, (point, NUM_CODE_POINTS))
    return index > 0 and ranges[index - 1][1] >= point
