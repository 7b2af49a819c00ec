"""The part of a manifest that a run trains on: ``data.sources.NAME.sample`` and ``data.fraction``.

The manifest has all samples, so runs with different fractions share it. A smaller random part is a subset of
a larger one with the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from data.pipeline.splitmix import row_hashes
from lladav.config.sampling import Sampling, SamplingStrategy, parse_sampling
from lladav.config.schema import Config

PERMUTATION = 0
"""Number of the permutation that random parts follow; epochs have the numbers from 1."""


@dataclass(frozen=True)
class Selection:
    """Which samples of each source are taken."""

    samplings: tuple[Sampling | None, ...]
    """By source, in the order of ``stage.sources``; None: all samples."""
    fraction: float
    """Random part of what the sampling of each source leaves."""
    seed: int

    @classmethod
    def of(cls, config: Config) -> Selection:
        """The selection of the configured stage, whose settings have been checked."""
        texts = [config.data.sources[name].sample for name in config.stage.sources]
        samplings = tuple(parse_sampling(text) if text else None for text in texts)
        return cls(samplings, config.data.fraction, config.train.seed)

    @property
    def takes_all(self) -> bool:
        return self.fraction == 1 and not any(self.samplings)

    def rows(self, sources: np.ndarray) -> np.ndarray:
        """The selected rows (int64), ascending; ``sources`` is the source of each row, from 0."""
        parts = [rows[self._part(sampling, len(rows))] for sampling, rows in self._by_source(sources)]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def counts(self, sources: np.ndarray) -> list[tuple[int, int]]:
        """Selected and available samples of each source."""
        return [
            (len(self._part(sampling, len(rows))), len(rows)) for sampling, rows in self._by_source(sources)
        ]

    def _by_source(self, sources: np.ndarray) -> Iterator[tuple[Sampling | None, np.ndarray]]:
        for number, sampling in enumerate(self.samplings):
            yield sampling, np.flatnonzero(sources == number)

    def _part(self, sampling: Sampling | None, available: int) -> np.ndarray:
        """The selected positions (int64) among the ``available`` samples of a source."""
        positions = np.arange(available)
        hashes = row_hashes(available, self.seed, PERMUTATION)
        if sampling:
            size = sampling.size(available)
            strategy = sampling.strategy
            if strategy is SamplingStrategy.random:
                positions = np.argsort(hashes)[:size]
            else:
                first = strategy is SamplingStrategy.first
                positions = positions[:size] if first else positions[available - size :]
        whole = Sampling(SamplingStrategy.random, fraction=Fraction(str(self.fraction)))
        return positions[np.argsort(hashes[positions])[: whole.size(len(positions))]]
