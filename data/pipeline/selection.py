"""The samples of an epoch: ``data.sources.NAME.sample``, ``data.fraction`` and ``data.sources.NAME.repeat``.

The manifest has all samples, so runs with different fractions share it. A smaller random part is a subset of
a larger one with the same seed. Copy ``n`` of the sample in manifest row ``r`` has the number ``r + n * R``,
where the manifest has ``R`` rows.
"""

from __future__ import annotations

import math
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
class SourceCounts:
    """Samples of a source: in the manifest, taken of them, and in an epoch with repeats."""

    available: int
    taken: int
    in_epoch: int


@dataclass(frozen=True)
class Selection:
    """Which samples of each source are taken."""

    samplings: tuple[Sampling | None, ...]
    """By source, in the order of ``stage.sources``; None: all samples."""
    fraction: float
    """Random part of what the sampling of each source leaves."""
    seed: int
    repeats: tuple[float, ...] = ()
    """By source: how often an epoch has each taken sample; empty: once."""
    held_out: float = 0.0
    """Part of the samples that is held out for validation. The callers of ``rows`` and ``counts`` leave them
    out."""

    @classmethod
    def of(cls, config: Config) -> Selection:
        """The selection of the configured stage, whose settings have been checked."""
        texts = [config.data.sources[name].sample for name in config.stage.sources]
        samplings = tuple(parse_sampling(text) if text else None for text in texts)
        repeats = tuple(config.data.sources[name].repeat for name in config.stage.sources)
        held_out = config.data.validation.share
        return cls(samplings, config.data.fraction, config.train.seed, repeats, held_out)

    @property
    def takes_all(self) -> bool:
        """Whether an epoch has each sample once."""
        takes_each = self.fraction == 1 and not any(self.samplings) and not self.held_out
        return takes_each and set(self.repeats) <= {1}

    def rows(self, sources: np.ndarray) -> np.ndarray:
        """The rows of an epoch with their copies (int64), ascending; ``sources`` is the source of each row,
        from 0. Rows with a negative number are left out."""
        taken = [rows[self._part(sampling, len(rows))] for sampling, rows in self._by_source(sources)]
        parts = [self._repeated(number, rows, len(sources)) for number, rows in enumerate(taken)]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def counts(self, sources: np.ndarray) -> list[SourceCounts]:
        """The samples of each source."""
        found = []
        for number, (sampling, rows) in enumerate(self._by_source(sources)):
            taken = rows[self._part(sampling, len(rows))]
            repeated = self._repeated(number, taken, len(sources))
            found.append(SourceCounts(len(rows), len(taken), len(repeated)))
        return found

    def _by_source(self, sources: np.ndarray) -> Iterator[tuple[Sampling | None, np.ndarray]]:
        for number, sampling in enumerate(self.samplings):
            yield sampling, np.flatnonzero(sources == number)

    def _repeated(self, number: int, rows: np.ndarray, total: int) -> np.ndarray:
        """Taken rows of a source with their copies; ``total`` is the number of rows of the manifest."""
        repeat = Fraction(str(self.repeats[number])) if self.repeats else Fraction(1)
        whole = math.floor(repeat)
        order = np.argsort(row_hashes(len(rows), self.seed, PERMUTATION))
        last = rows[order[: math.ceil((repeat - whole) * len(rows))]]
        return np.concatenate([*(rows + copy * total for copy in range(whole)), last + whole * total])

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
