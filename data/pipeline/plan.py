"""Which samples form which optimizer step, and which rank sees them when.

Pure functions of the samples' lengths, the seed and the step. The members of a global batch, and their order
in it, depend on nothing else: workers and micro-batch only cut it up. Steps go on over epochs; the last batch
of an epoch may be smaller.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from lladav.config.schema import Config
from lladav.errors import UserError

_GOLDEN, _SEED_STRIDE = 0x9E3779B97F4A7C15, 1_000_003
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class HasLengths(Protocol):
    """What a plan needs of a manifest: tokens of each sample, visual ones included."""

    @property
    def lengths(self) -> np.ndarray: ...


@dataclass(frozen=True)
class BatchLayout:
    """How global batches are cut: micro-batches of each worker in a step (slots), and workers."""

    slots: int
    workers: int

    @classmethod
    def of(cls, config: Config, workers: int) -> BatchLayout:
        """As many slots as ``train.micro_batch`` needs for the global batch, whether or not it divides it."""
        return cls(math.ceil(config.stage.global_batch / (config.train.micro_batch * workers)), workers)


@dataclass(frozen=True)
class MicroBatchPlan:
    """The samples of one rank in one accumulation slot.

    ``rows`` are those of the manifest, ``places`` the samples' positions in the global batch of
    ``global_samples``; both are int64. They are empty only where a step has fewer samples than micro-batches:
    in an epoch's last step, or with workers that do not divide the global batch.
    """

    step: int
    epoch: int
    slot: int
    rank: int
    global_samples: int
    rows: np.ndarray
    places: np.ndarray


class Plan:
    """Steps 0 to ``steps`` (exclusive) over samples of ``lengths`` tokens."""

    def __init__(self, lengths: np.ndarray, seed: int, global_batch: int, steps: int) -> None:
        self._lengths, self._seed, self._batch = lengths, seed, global_batch
        self.steps = steps
        self._order = lru_cache(2)(self._shuffled)
        self._hands = lru_cache(4)(self._dealt)

    @classmethod
    def of(cls, manifest: HasLengths, config: Config) -> Plan:
        """The plan of a run; raises ``UserError`` where there is nothing to train on."""
        lengths, batch = manifest.lengths, config.stage.global_batch
        if not len(lengths):
            raise UserError(f"stage {config.stage.name}: no samples to train on; check stage.sources")
        steps = config.train.max_steps or config.stage.epochs * math.ceil(len(lengths) / batch)
        return cls(lengths, config.train.seed, batch, steps)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._lengths) / self._batch)

    def epoch(self, step: int) -> int:
        """The pass over the data that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> np.ndarray:
        """Rows of the samples of a step (int64), in the order in which they count for noise."""
        start = step % self.steps_per_epoch * self._batch
        return self._order(self.epoch(step))[start : start + self._batch]

    def micro_batch(self, step: int, slot: int, rank: int, layout: BatchLayout) -> MicroBatchPlan:
        """What ``rank`` sees in ``slot`` of a step."""
        batch, places = self.global_batch(step), self._hands(step, layout)[slot][rank]
        return MicroBatchPlan(step, self.epoch(step), slot, rank, len(batch), batch[places], places)

    def _dealt(self, step: int, layout: BatchLayout) -> list[list[np.ndarray]]:
        return deal(self._lengths[self.global_batch(step)], layout)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """A permutation that hangs on no random generator's version: rows in the order of their hashes.

        Hashes are all different, for each step of the mixing can be undone.
        """
        salt = (self._seed * _SEED_STRIDE + epoch + 1) * _GOLDEN % 2**64
        rows = np.arange(len(self._lengths), dtype=np.uint64)
        return np.argsort(_mixed(_mixed(rows) + np.uint64(salt)))


def deal(lengths: np.ndarray, layout: BatchLayout) -> list[list[np.ndarray]]:
    """Places (int64) of a global batch's samples by slot and rank.

    Longest first, each sample goes to the micro-batch with the fewest tokens that has room: all get nearly
    the same number of tokens, and so need nearly the same memory. Those most alike then share a slot, so that
    ranks wait little for each other. None stays empty unless there are fewer samples than micro-batches.
    """
    cells = layout.slots * layout.workers
    hands = _even_hands(lengths, cells, room=math.ceil(len(lengths) / cells))
    hands.sort(key=lambda hand: -int(lengths[hand].sum()))
    return [hands[start : start + layout.workers] for start in range(0, cells, layout.workers)]


def _even_hands(lengths: np.ndarray, count: int, room: int) -> list[np.ndarray]:
    """Places in ``count`` groups of at most ``room``, their sums of lengths alike."""
    hands: list[list[int]] = [[] for _ in range(count)]
    open_hands = [(0, number) for number in range(count)]
    for place in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        tokens, number = heapq.heappop(open_hands)
        hands[number].append(place)
        if len(hands[number]) < room:
            heapq.heappush(open_hands, (tokens + int(lengths[place]), number))
    return [np.array(hand, np.int64) for hand in hands]


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: spreads neighbouring numbers over 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
