"""Training data in Ray Train: each rank reads its own stream of micro-batches in order.

The consumer compares step and rank of every micro-batch with those it expects, so that a stream that does not
match the checkpoint stops the run instead of training on other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from data.manifest.manifest import Manifest, manifest_in
from data.manifest.quarantine import Quarantine
from data.pipeline.microbatches import MicroBatch, to_batch
from data.pipeline.plan import BatchLayout
from data.pipeline.streams import SampleStream, rank_dataset
from lladav.config.schema import Config
from lladav.storage import AnyPath


class RankedData(DataConfig):
    """The ``dataset_config`` of ``TorchTrainer``: gives each rank its own stream from the committed step on.

    ``first_step`` is called at every start of the worker group. Pass ``RankedData.placeholder()`` as the
    trainer's dataset; it is never read.
    """

    def __init__(self, config: Config, manifest: Manifest, first_step: Callable[[], int]) -> None:
        super().__init__()
        self._config, self._folder, self._first_step = config, str(manifest.folder), first_step

    @staticmethod
    def placeholder() -> Dataset:
        """A dataset that Ray Train requires and passes to ``configure``."""
        return ray.data.range(1)

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """One iterator per rank."""
        manifest, first = manifest_in(self._folder), self._first_step()
        streams = [
            SampleStream.of(self._config, manifest, rank, world_size, first) for rank in range(world_size)
        ]
        return [dict.fromkeys(datasets, rank_dataset(s, self._config).iterator()) for s in streams]


def micro_batches(
    shard: DataIterator, config: Config, rank: int, workers: int, first_step: int, quarantine: Quarantine
) -> Iterator[MicroBatch]:
    """The micro-batches of a rank in order; ``data.prefetch`` of them are read ahead.

    Samples that could not be read are added to ``quarantine``. Raises ``RuntimeError`` for a micro-batch of
    another step or rank than expected.
    """
    per_step, tile = BatchLayout.of(config, workers).accumulation_steps, config.model.vision.image_size
    for row, number in zip(_rows(shard, config.data.prefetch), count(first_step * per_step), strict=False):
        batch = to_batch(row, tile)
        expected, found = (*divmod(number, per_step), rank), (batch.step, batch.micro_step, batch.rank)
        if found != expected:
            raise RuntimeError(
                f"data stream out of step: (step, micro-step, rank) is {found}, expected {expected}"
            )
        quarantine.add(batch.rejected)
        yield batch


def quarantine_of(manifest: Manifest, folder: AnyPath, rank: int) -> Quarantine:
    """The quarantine of a rank, in a folder that all ranks of the run share."""
    return Quarantine(folder, rank, manifest.summary.reasons, manifest.summary.records)


def _rows(shard: DataIterator, prefetch: int) -> Iterable[pa.Table]:
    whole_blocks: Any = None
    blocks: Iterable[Any] = shard.iter_batches(
        batch_size=whole_blocks, batch_format="pyarrow", prefetch_batches=prefetch
    )
    for block in blocks:
        yield from (block.slice(number, 1) for number in range(block.num_rows))
