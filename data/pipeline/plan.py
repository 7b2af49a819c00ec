"""The plan of a run: the samples of each optimizer step, and their distribution over ranks and micro-batches.

The plan is a pure function of the samples' lengths, the selected samples, the seed and the step. The members
of a global batch and their order do not depend on the number of workers or the size of a micro-batch; these
only divide it. Steps are numbered across epochs, and the last batch of an epoch may be smaller.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from data.pipeline.selection import Selection
from data.pipeline.splitmix import row_hashes
from lladav.config.schema import Config
from lladav.errors import UserError

HELD_OUT = -1
"""Number of no source: of samples that no epoch has."""


class HasLengths(Protocol):
    """The part of a manifest that a plan needs."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each sample, visual tokens included."""
        ...

    @property
    def sources(self) -> np.ndarray:
        """Number of each sample's source, in the order of ``stage.sources``."""
        ...

    @property
    def held_out_hashes(self) -> np.ndarray:
        """A pseudo-random number in [0, 1) for each sample, which depends on its id alone."""
        ...


@dataclass(frozen=True)
class BatchLayout:
    """The division of a global batch: micro-batches per worker and step, and number of workers."""

    accumulation_steps: int
    workers: int

    @classmethod
    def of(cls, config: Config, workers: int) -> BatchLayout:
        """The layout with as few steps as micro-batches of ``train.micro_batch`` samples allow."""
        return cls(math.ceil(config.stage.global_batch / (config.train.micro_batch * workers)), workers)


@dataclass(frozen=True)
class MicroBatchPlan:
    """The samples of one rank in one accumulation step (``micro_step``) of an optimizer step.

    ``rows`` are numbers of ``Selection.rows``, ``positions`` the samples' positions in the global batch,
    which has ``global_samples`` samples; both are int64. They are empty only if a step has fewer samples than
    micro-batches: in the last step of an epoch, or if the workers do not divide the global batch.
    """

    step: int
    epoch: int
    micro_step: int
    rank: int
    global_samples: int
    rows: np.ndarray
    positions: np.ndarray


class Plan:
    """The optimizer steps 0 to ``steps`` (exclusive) over samples of ``lengths`` tokens."""

    def __init__(
        self, lengths: np.ndarray, seed: int, global_batch: int, steps: int, rows: np.ndarray | None = None
    ) -> None:
        """``rows`` are those of an epoch, as of ``Selection.rows``; None: all of the manifest."""
        self._lengths, self._seed, self._batch, self._rows = lengths, seed, global_batch, rows
        self.samples = len(lengths) if rows is None else len(rows)
        """Number of samples of an epoch."""
        self.steps = steps
        self._order = lru_cache(2)(self._shuffled)
        self._division = lru_cache(4)(self._divide)

    @classmethod
    def of(cls, manifest: HasLengths, config: Config) -> Plan:
        """The plan of a run; raises ``UserError`` if there are no samples."""
        batch, rows = config.stage.global_batch, selected_rows(manifest, Selection.of(config))
        samples = len(manifest.lengths) if rows is None else len(rows)
        if not samples:
            raise UserError(f"stage {config.stage.name}: no samples to train on; check stage.sources")
        steps = config.train.max_steps or config.stage.epochs * math.ceil(samples / batch)
        return cls(manifest.lengths, config.train.seed, batch, steps, rows)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.samples / self._batch)

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> np.ndarray:
        """The samples of a step, as in ``Selection.rows`` (int64); stratified noise follows their order."""
        start = step % self.steps_per_epoch * self._batch
        return self._order(self.epoch(step))[start : start + self._batch]

    def micro_batch(self, step: int, micro_step: int, rank: int, layout: BatchLayout) -> MicroBatchPlan:
        """The micro-batch of ``rank`` in one accumulation step of a step."""
        batch, positions = self.global_batch(step), self._division(step, layout)[micro_step][rank]
        epoch = self.epoch(step)
        return MicroBatchPlan(step, epoch, micro_step, rank, len(batch), batch[positions], positions)

    def _divide(self, step: int, layout: BatchLayout) -> list[list[np.ndarray]]:
        return divide_batch(self._lengths[self.global_batch(step) % len(self._lengths)], layout)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order of their hashes."""
        order = np.argsort(row_hashes(self.samples, self._seed, epoch + 1))
        return order if self._rows is None else self._rows[order]


def selected_rows(manifest: HasLengths, selection: Selection) -> np.ndarray | None:
    """The rows of an epoch (int64), as of ``Selection.rows``; None: all of the manifest."""
    return None if selection.takes_all else selection.rows(training_sources(manifest, selection.held_out))


def training_sources(manifest: HasLengths, held_out: float) -> np.ndarray:
    """Number of each sample's source, and ``HELD_OUT`` for the samples that are held out from training."""
    if not held_out:
        return manifest.sources
    return np.where(manifest.held_out_hashes < held_out, HELD_OUT, manifest.sources)


def divide_batch(lengths: np.ndarray, layout: BatchLayout) -> list[list[np.ndarray]]:
    """Positions (int64) of a global batch's samples, by accumulation step and rank.

    All micro-batches get nearly the same number of tokens, and so need nearly the same memory. The most
    similar ones share an accumulation step, so that ranks wait little for each other. No micro-batch is empty
    unless there are fewer samples than micro-batches.
    """
    count = layout.accumulation_steps * layout.workers
    bins = _balanced_bins(lengths, count, capacity=math.ceil(len(lengths) / count))
    bins.sort(key=lambda positions: -int(lengths[positions].sum()))
    return [bins[start : start + layout.workers] for start in range(0, count, layout.workers)]


def _balanced_bins(lengths: np.ndarray, count: int, capacity: int) -> list[np.ndarray]:
    """Positions in ``count`` bins of at most ``capacity``, with similar sums of lengths.

    Longest first, each sample goes to the bin with the fewest tokens that has room.
    """
    bins: list[list[int]] = [[] for _ in range(count)]
    open_bins = [(0, number) for number in range(count)]
    for position in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        tokens, number = heapq.heappop(open_bins)
        bins[number].append(position)
        if len(bins[number]) < capacity:
            heapq.heappush(open_bins, (tokens + int(lengths[position]), number))
    return [np.array(positions, np.int64) for positions in bins]
