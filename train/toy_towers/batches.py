"""Batches of samples, in which many neighbours are equally long.

Attention over neighbours of equal length is one call, so such a batch takes less time than one of 64 lengths.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from lladav.inputs.images import ViewGeometry, token_count
from lladav.inputs.samples import Sample

GROUP = 8
"""Samples of equal length that stay together, where there are enough."""


class EqualLengthBatches:
    """The batch of each step; an epoch has each sample at most once and no incomplete batch."""

    def __init__(self, samples: Sequence[Sample], geometry: ViewGeometry, batch: int, seed: int) -> None:
        self._samples, self._batch, self._seed = samples, min(batch, len(samples)), seed
        self._lengths = [_length(sample, geometry) for sample in samples]
        self._epoch, self._order = -1, list[int]()

    def at(self, step: int) -> list[Sample]:
        """The samples of a step."""
        epoch, number = divmod(step, len(self._samples) // self._batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._grouped(random.Random(self._seed * 1_000_003 + epoch))
        return [self._samples[i] for i in self._order[number * self._batch : (number + 1) * self._batch]]

    def _grouped(self, rng: random.Random) -> list[int]:
        """All samples in random order, but in groups of equal length."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for index in rng.sample(range(len(self._lengths)), len(self._lengths)):
            by_length[self._lengths[index]].append(index)
        groups = [each[i : i + GROUP] for each in by_length.values() for i in range(0, len(each), GROUP)]
        rng.shuffle(groups)
        return list(chain.from_iterable(groups))


def _length(sample: Sample, geometry: ViewGeometry) -> int:
    visual = sum(token_count(each.shape, geometry) - 1 for each in sample.visuals)
    return len(sample.text.input_ids) + visual
