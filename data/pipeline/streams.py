"""What one rank is to see, as a lazy Ray data set.

Each rank has a data set of its own, whose rows are exactly its micro-batches in the order of the plan:
nothing depends on how Ray would split one data set between workers. A task reads, decodes, tiles and
tokenises some micro-batches; only their numbers travel to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, Dataset, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from data.manifest.manifest import Manifest, manifest_in
from data.pipeline.microbatches import build_row
from data.pipeline.plan import BatchLayout, Plan
from data.pipeline.reading import open_reader
from lladav.config.schema import Config

SAMPLES_PER_TASK = 64
BYTES_PER_TASK = 1 << 26
"""A task's micro-batches: work enough to outweigh its start, bytes few enough to keep several ready."""

BLOCK_BYTES = 1 << 24
"""A task hands over what it has made once it is this much."""

SMALLEST_CPU_SHARE = 0.01
STORE_SHARE = 0.3
"""Part of the object store that micro-batches on their way may take, all ranks together."""


@dataclass(frozen=True)
class SampleStream:
    """The micro-batches of ``rank`` from ``first_step`` on; small, for it travels with every task."""

    folder: str
    seed: int
    global_batch: int
    steps: int
    layout: BatchLayout
    rank: int
    first_step: int

    @classmethod
    def of(cls, config: Config, manifest: Manifest, rank: int, workers: int, first_step: int) -> SampleStream:
        """The stream of one of ``workers`` ranks to the end of the run."""
        steps, layout = Plan.of(manifest, config).steps, BatchLayout.of(config, workers)
        batch = config.train.seed, config.stage.global_batch
        return cls(str(manifest.folder), *batch, steps, layout, rank, first_step)

    @property
    def rows(self) -> range:
        """Numbers of the rank's micro-batches, counted from step 0."""
        return range(self.first_step * self.layout.slots, self.steps * self.layout.slots)

    @property
    def samples_per_row(self) -> float:
        return self.global_batch / (self.layout.slots * self.layout.workers)

    @property
    def bytes_per_row(self) -> int:
        """Pixels of a micro-batch, on average, in bytes."""
        return 1 + int(manifest_in(self.folder).mean_sample_bytes * self.samples_per_row)

    def build(self, row: int) -> pa.Table:
        """Make the micro-batch with this number."""
        step, slot = divmod(row, self.layout.slots)
        plan = _plan(self.folder, self.seed, self.global_batch, self.steps)
        return build_row(open_reader(self.folder), plan.micro_batch(step, slot, self.rank, self.layout))


@lru_cache(4)
def _plan(folder: str, seed: int, global_batch: int, steps: int) -> Plan:
    return Plan(manifest_in(folder).lengths, seed, global_batch, steps)


class MicroBatchSource(Datasource):
    """A stream for Ray Data: spans of micro-batches, each made by one task."""

    def __init__(self, stream: SampleStream) -> None:
        super().__init__()
        self._stream = stream
        by_samples, by_bytes = (
            SAMPLES_PER_TASK / stream.samples_per_row,
            BYTES_PER_TASK / stream.bytes_per_row,
        )
        rows, size = stream.rows, max(1, int(min(by_samples, by_bytes)))
        self.spans = [rows[start : start + size] for start in range(0, len(rows), size)]

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


def _read(stream: SampleStream, span: range) -> Iterable[pa.Table]:
    return map(stream.build, span)


class TaskShare(NamedTuple):
    """CPUs that a task takes, and how many of a rank's tasks run at a time (none: Ray decides)."""

    cpus: float
    at_once: int | None


def task_share(free_cpus: float, tasks: int) -> TaskShare:
    """The share of ``free_cpus``, those of a rank's part of the cluster that no training worker holds.

    ``tasks`` is ``data.tasks``. Where nothing is free, tasks take no CPU by Ray's count and run beside the
    workers.
    """
    if tasks == 0 and free_cpus >= 1:
        return TaskShare(1, None)
    at_once = tasks or 1
    cpus = min(1.0, free_cpus / at_once)
    return TaskShare(cpus if cpus >= SMALLEST_CPU_SHARE else 0, at_once)


def rank_dataset(stream: SampleStream, config: Config) -> Dataset:
    """The stream as a lazy data set, its rows in the order of the plan."""
    cluster, workers = ray.cluster_resources(), stream.layout.workers
    share = task_share(cluster.get("CPU", 0) / workers - config.cluster.cpus_per_worker, config.data.tasks)
    source = MicroBatchSource(stream)
    dataset = ray.data.read_datasource(
        source,
        num_cpus=share.cpus,
        concurrency=share.at_once,
        override_num_blocks=max(1, len(source.spans)),
    )
    _set_up(dataset.context, cluster.get("object_store_memory", 0) * STORE_SHARE / workers)
    return dataset


def _set_up(context: DataContext, store_bytes: float) -> None:
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=store_bytes)
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
