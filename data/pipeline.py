"""The training data of each rank as a Ray Data stream of micro-batches.

Each rank has a data set of its own, whose rows are exactly its micro-batches in the order of the plan: nothing
depends on how Ray would split one data set between workers. A task reads, decodes, tiles and tokenises some
micro-batches; only their numbers travel to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, DataIterator, Dataset, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata
from ray.train import DataConfig

from data.manifest import Manifest, open_manifest
from data.microbatches import MicroBatch, build_row, to_batch
from data.plan import Layout, Plan, total_steps
from data.quarantine import Quarantine
from data.reading import open_reader
from lladav.schema import Config

SAMPLES_PER_TASK = 64
BYTES_PER_TASK = 1 << 26
"""A task's micro-batches: work enough to outweigh its start, bytes few enough to keep several of them ready."""

BLOCK_BYTES = 1 << 24
"""A task hands over what it has made once it is this much."""

SMALLEST_CPU_SHARE = 0.01
STORE_SHARE = 0.3
"""Part of the object store that micro-batches on their way may take, all ranks together."""

DATASET = "train"


@dataclass(frozen=True)
class Stream:
    """What one rank is to see: steps ``first`` to ``last`` (exclusive) of the plan over a manifest's samples."""

    folder: str
    seed: int
    global_batch: int
    layout: Layout
    rank: int
    first: int
    last: int

    @classmethod
    def of(cls, config: Config, manifest: Manifest, rank: int, workers: int, first_step: int) -> Stream:
        """What ``rank`` of ``workers`` is to see from ``first_step`` to the end of the run."""
        layout = Layout(config.train.micro_batch, workers)
        last = max(first_step, total_steps(len(manifest), config))
        plan = config.train.seed, config.stage.global_batch
        return cls(str(manifest.folder), *plan, layout, rank, first_step, last)

    @property
    def plan(self) -> Plan:
        return _plan(self.folder, self.seed, self.global_batch)

    @property
    def rows(self) -> range:
        """Numbers of the rank's micro-batches."""
        return range(*(self.plan.rows_before(step, self.layout) for step in (self.first, self.last)))

    @property
    def bytes_per_row(self) -> int:
        """Pixels of a micro-batch, on average, in bytes."""
        return 1 + int(open_manifest(self.folder).mean_sample_bytes * self.layout.micro_batch)


@lru_cache(4)
def _plan(folder: str, seed: int, global_batch: int) -> Plan:
    return Plan(open_manifest(folder).lengths, seed, global_batch)


def dataset_of(stream: Stream, config: Config) -> Dataset:
    """The stream as a lazy data set, its rows in the order of the plan."""
    source, share = MicroBatchSource(stream), task_share(config, stream.layout.workers)
    blocks = max(1, len(source.spans))
    dataset = ray.data.read_datasource(
        source, num_cpus=share.cpus, concurrency=share.at_once, override_num_blocks=blocks
    )
    _set_up(dataset.context, stream.layout.workers)
    return dataset


class RankedDataConfig(DataConfig):
    """Gives each rank of a Ray Train run its own stream, from the step that is committed when its workers start.

    ``first_step`` is asked at every start of the worker group. Use as ``TorchTrainer(dataset_config=...,
    datasets={"train": config.placeholder})``; the placeholder is never read.
    """

    def __init__(self, config: Config, manifest: Manifest, first_step: Callable[[], int]) -> None:
        super().__init__()
        self._config, self._folder, self._first_step = config, str(manifest.folder), first_step

    @staticmethod
    def placeholder() -> Dataset:
        """Ray Train wants a data set to hand to ``configure``."""
        return ray.data.range(1)

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """An iterator for each rank."""
        manifest, first = open_manifest(self._folder), self._first_step()
        streams = [Stream.of(self._config, manifest, r, world_size, first) for r in range(world_size)]
        return [dict.fromkeys(datasets, dataset_of(s, self._config).iterator()) for s in streams]


def iterate(
    shard: DataIterator, stream: Stream, config: Config, quarantine: Quarantine
) -> Iterator[MicroBatch]:
    """The micro-batches of a stream in order, ``config.data.prefetch`` of them ready ahead.

    Samples that could not be read go to ``quarantine``, which stops the run (``UserError``) over budget. Raises
    ``RuntimeError`` if the shard does not hold the stream, as after a resume from another step than was planned.
    """
    if not stream.rows:
        return
    tile = open_manifest(stream.folder).preparation.geometry.tile
    expected = iter(stream.rows)
    for block in _blocks(shard, stream, config):
        for number in range(block.num_rows):
            batch = to_batch(block.slice(number, 1), tile)
            _check_place(batch, stream, next(expected, None))
            quarantine.add(batch.rejects)
            yield batch


def quarantine_of(config: Config, manifest: Manifest, folder: Path, rank: int) -> Quarantine:
    """Where a rank puts samples that it could not read, in a folder that all ranks of the run share."""
    summary = manifest.summary
    return Quarantine(folder, rank, summary.reasons, summary.records, config.data.bad_sample_budget)


class TaskShare(NamedTuple):
    """CPUs that a preprocessing task takes, and how many of a rank's tasks run at a time (none: Ray decides)."""

    cpus: float
    at_once: int | None


def task_share(config: Config, workers: int) -> TaskShare:
    """What is left of the cluster's CPUs beside the training workers, for the tasks of one rank.

    Where nothing is left, tasks take no CPU by Ray's count and share those of the workers.
    """
    free = ray.cluster_resources().get("CPU", 0) / workers - config.cluster.cpus_per_worker
    if config.data.tasks == 0 and free >= 1:
        return TaskShare(1, None)
    at_once = config.data.tasks or 1
    cpus = min(1.0, free / at_once)
    return TaskShare(cpus if cpus >= SMALLEST_CPU_SHARE else 0, at_once)


class MicroBatchSource(Datasource):
    """A stream for Ray Data: spans of micro-batches, each made by one task."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        samples, size = stream.layout.micro_batch, stream.bytes_per_row
        rows, step = stream.rows, max(1, min(SAMPLES_PER_TASK // samples, BYTES_PER_TASK // size))
        self.spans = [rows[start : start + step] for start in range(0, len(rows), step)]

    def estimate_inmemory_data_size(self) -> int:
        return self._stream.bytes_per_row * len(self._stream.rows)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task for each span; ``parallelism`` is their number already."""
        del parallelism, data_context
        return [
            ReadTask(partial(_read, self._stream, span), self._told(span), None, per_task_row_limit)
            for span in self.spans
        ]

    def _told(self, span: range) -> BlockMetadata:
        size = self._stream.bytes_per_row * len(span)
        return BlockMetadata(num_rows=len(span), size_bytes=size, input_files=None, exec_stats=None)


def _read(stream: Stream, span: range) -> Iterable[pa.Table]:
    plan, reader = stream.plan, open_reader(stream.folder)
    for row in span:
        step, slot = plan.locate(row, stream.layout)
        yield build_row(reader, plan.micro_batch(step, slot, stream.rank, stream.layout))


def _set_up(context: DataContext, workers: int) -> None:
    options = context.execution_options
    options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0) * STORE_SHARE / workers
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=store)
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False


def _blocks(shard: DataIterator, stream: Stream, config: Config) -> Iterable[pa.Table]:
    """Tables of some micro-batches each, as tasks made them."""
    rows = max(1, BLOCK_BYTES // stream.bytes_per_row)
    ahead = math.ceil(config.data.prefetch / min(rows, SAMPLES_PER_TASK))
    return shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)


def _check_place(batch: MicroBatch, stream: Stream, row: int | None) -> None:
    expected = (*stream.plan.locate(row, stream.layout), stream.rank) if row is not None else None
    found = batch.step, batch.slot, batch.rank
    if found != expected:
        raise RuntimeError(f"data stream out of step: got (step, slot, rank) {found}, expected {expected}")
