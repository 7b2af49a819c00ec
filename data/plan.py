"""Which samples form which optimizer step, and which rank sees them when.

Pure functions of the samples' lengths, the seed and the step. The members of a global batch, and their order in it,
depend on nothing else: workers and micro-batch only cut it up. Steps go on over epochs without end; the last
batch of an epoch may be smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lladav.errors import UserError
from lladav.schema import Config

MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Layout:
    """How a global batch is cut: samples of a micro-batch, and workers."""

    micro_batch: int
    workers: int

    @classmethod
    def of(cls, config: Config) -> Layout:
        return cls(config.train.micro_batch, config.cluster.workers)


@dataclass(frozen=True)
class MicroBatchPlan:
    """The samples of one rank in one accumulation slot.

    ``indices`` are rows of the manifest, ``places`` their positions in the global batch of ``batch_size``
    samples; both are int64 and may be empty in an epoch's last step. ``slots`` micro-batches per rank make up the
    step.
    """

    step: int
    epoch: int
    slot: int
    slots: int
    rank: int
    batch_size: int
    indices: np.ndarray
    places: np.ndarray


class Plan:
    """All steps over ``lengths`` (tokens of each sample, visual ones included)."""

    def __init__(self, lengths: np.ndarray, seed: int, global_batch: int) -> None:
        self._lengths, self._seed, self._batch = lengths, seed, global_batch
        self._order = lru_cache(2)(self._shuffled)
        self._hands = lru_cache(4)(self._dealt)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._lengths) // self._batch)

    def epoch(self, step: int) -> int:
        """The pass over the data that a step belongs to, from 0."""
        return step // self.steps_per_epoch

    def batch_size(self, step: int) -> int:
        """Samples of a step's global batch."""
        start = step % self.steps_per_epoch * self._batch
        return min(self._batch, len(self._lengths) - start)

    def global_batch(self, step: int) -> np.ndarray:
        """Rows of the samples of a step (int64), in the order in which they count for noise."""
        start = step % self.steps_per_epoch * self._batch
        return self._order(self.epoch(step))[start : start + self._batch]

    def slots(self, step: int, layout: Layout) -> int:
        """Micro-batches of each rank in a step: as many as its samples need."""
        return -(-self.batch_size(step) // (layout.micro_batch * layout.workers))

    def micro_batch(self, step: int, slot: int, rank: int, layout: Layout) -> MicroBatchPlan:
        """What ``rank`` sees in ``slot`` of a step."""
        batch, hands = self.global_batch(step), self._hands(step, layout)
        places = hands[slot][rank]
        return MicroBatchPlan(
            step, self.epoch(step), slot, len(hands), rank, len(batch), indices=batch[places], places=places
        )

    def rows_before(self, step: int, layout: Layout) -> int:
        """Micro-batches that each rank has seen when a step begins."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        return epoch * self._rows_per_epoch(layout) + inside * self.slots(0, layout)

    def locate(self, row: int, layout: Layout) -> tuple[int, int]:
        """(step, slot) of a rank's micro-batch with this number."""
        epoch, inside = divmod(row, self._rows_per_epoch(layout))
        step, slot = divmod(inside, self.slots(0, layout))
        return epoch * self.steps_per_epoch + step, slot

    def _rows_per_epoch(self, layout: Layout) -> int:
        last = self.steps_per_epoch - 1
        return last * self.slots(0, layout) + self.slots(last, layout)

    def _dealt(self, step: int, layout: Layout) -> list[list[np.ndarray]]:
        return deal(self._lengths[self.global_batch(step)], self.slots(step, layout), layout.workers)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """A permutation that depends on no random generator's version: the order of hashes of the row numbers."""
        salt = (self._seed * 1_000_003 + epoch + 1) * GOLDEN % 2**64
        rows = np.arange(len(self._lengths), dtype=np.uint64)
        keys = _mixed(_mixed(rows) + np.uint64(salt))
        return np.argsort(keys, kind="stable")


def deal(lengths: np.ndarray, slots: int, workers: int) -> list[list[np.ndarray]]:
    """Places (int64) of a global batch's samples by slot and rank.

    Longest first, so that the samples of a slot are alike and a batch that does not fit fails at once. Within a
    slot each sample goes to the rank with the least tokens among those with the fewest samples: ranks wait
    little for each other. Numbers of samples differ by at most one.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [_deal_slot(lengths, part, workers) for part in np.array_split(order, slots)]


def total_steps(samples: int, config: Config) -> int:
    """Optimizer steps of a run; raises ``UserError`` where there is nothing to train on."""
    if samples < 1:
        raise UserError(f"stage {config.stage.name}: no samples to train on; check stage.sources")
    return config.train.max_steps or config.stage.epochs * -(-samples // config.stage.global_batch)


def _deal_slot(lengths: np.ndarray, places: np.ndarray, workers: int) -> list[np.ndarray]:
    hands: list[list[int]] = [[] for _ in range(workers)]
    tokens = [0] * workers
    for place in places.tolist():
        rank = min(range(workers), key=lambda r: (len(hands[r]), tokens[r], r))
        hands[rank].append(place)
        tokens[rank] += int(lengths[place])
    return [np.array(hand, np.int64) for hand in hands]


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: spreads neighbouring numbers over 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * MIX[0]
    values = (values ^ (values >> np.uint64(27))) * MIX[1]
    return values ^ (values >> np.uint64(31))
