"""The micro-batches of one rank as a lazy Ray dataset.

Each rank has its own dataset, whose rows are its micro-batches in the order of the plan, so that nothing
depends on how Ray splits a dataset between workers. A Ray task receives the numbers of a few micro-batches
and reads, decodes, tiles and tokenizes them.
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
from data.pipeline.plan import BatchLayout, Plan, selected_rows
from data.pipeline.reading import open_reader
from data.pipeline.selection import Selection
from lladav.config.schema import Config

SAMPLES_PER_TASK = 256
"""Samples of a task, or fewer if their pixels do not fit. Ray takes up to 0.1 s to notice that a task has
ended, so that short tasks would leave their processes idle for much of the time."""

BLOCK_BYTES = 1 << 24
"""A task returns its micro-batches in blocks of about this size."""

MIN_CPU_SHARE = 0.01
OBJECT_STORE_SHARE = 0.3
"""Fraction of the object store that pending micro-batches may use, all ranks together."""


@dataclass(frozen=True)
class SampleStream:
    """The micro-batches of ``rank`` from ``first_step`` to ``steps``; it is pickled with every task."""

    folder: str
    seed: int
    global_batch: int
    steps: int
    layout: BatchLayout
    rank: int
    first_step: int
    selection: Selection

    @classmethod
    def of(cls, config: Config, manifest: Manifest, rank: int, workers: int, first_step: int) -> SampleStream:
        """The stream of one of ``workers`` ranks up to the last step of the run."""
        steps, layout = Plan.of(manifest, config).steps, BatchLayout.of(config, workers)
        batch = config.train.seed, config.stage.global_batch
        return cls(str(manifest.folder), *batch, steps, layout, rank, first_step, Selection.of(config))

    @property
    def rows(self) -> range:
        """The numbers of the rank's micro-batches, counted from step 0."""
        per_step = self.layout.accumulation_steps
        return range(self.first_step * per_step, self.steps * per_step)

    @property
    def samples_per_row(self) -> float:
        return self.global_batch / (self.layout.accumulation_steps * self.layout.workers)

    @property
    def bytes_per_row(self) -> int:
        """Mean number of bytes of a micro-batch's pixels."""
        return 1 + int(manifest_in(self.folder).mean_sample_bytes * self.samples_per_row)

    def build(self, row: int) -> pa.Table:
        """Read the micro-batch with this number."""
        step, micro_step = divmod(row, self.layout.accumulation_steps)
        plan = _plan(self.folder, self.seed, self.global_batch, self.steps, self.selection)
        return build_row(open_reader(self.folder), plan.micro_batch(step, micro_step, self.rank, self.layout))


@lru_cache(4)
def _plan(folder: str, seed: int, global_batch: int, steps: int, selection: Selection) -> Plan:
    manifest = manifest_in(folder)
    return Plan(manifest.lengths, seed, global_batch, steps, selected_rows(manifest, selection))


class MicroBatchSource(Datasource):
    """A Ray data source over a stream; each of its ``spans`` of micro-batches is read by one task."""

    def __init__(self, stream: SampleStream, task_bytes: float) -> None:
        """A task reads micro-batches of at most ``task_bytes`` in total, but at least one."""
        super().__init__()
        self._stream = stream
        by_samples = SAMPLES_PER_TASK / stream.samples_per_row
        by_bytes = task_bytes / stream.bytes_per_row
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
        """One task per span; ``parallelism`` equals the number of spans."""
        del parallelism, data_context
        return [
            ReadTask(partial(_read, self._stream, span), self._metadata(span), None, per_task_row_limit)
            for span in self.spans
        ]

    def _metadata(self, span: range) -> BlockMetadata:
        size = self._stream.bytes_per_row * len(span)
        return BlockMetadata(num_rows=len(span), size_bytes=size, input_files=None, exec_stats=None)


def _read(stream: SampleStream, span: range) -> Iterable[pa.Table]:
    return map(stream.build, span)


class TaskShare(NamedTuple):
    """CPUs of a task, and how many tasks of a rank run concurrently (None: Ray decides)."""

    cpus: float
    concurrency: int | None


def task_share(free_cpus: float, tasks: int) -> TaskShare:
    """The resources of a rank's tasks.

    ``free_cpus`` are the CPUs in a rank's share of the cluster that no training worker has reserved;
    ``tasks`` is ``data.tasks``. If no CPU is free, tasks reserve none and compete with the training workers.
    """
    if tasks == 0 and free_cpus >= 1:
        return TaskShare(1, None)
    concurrency = tasks or 1
    cpus = min(1.0, free_cpus / concurrency)
    return TaskShare(cpus if cpus >= MIN_CPU_SHARE else 0, concurrency)


def rank_dataset(stream: SampleStream, config: Config) -> Dataset:
    """The stream as a lazy dataset with its rows in the order of the plan."""
    cluster, workers = ray.cluster_resources(), stream.layout.workers
    free_cpus = cluster.get("CPU", 0) / workers - config.cluster.cpus_per_worker
    share = task_share(free_cpus, config.data.tasks)
    store_bytes = cluster.get("object_store_memory", 0) * OBJECT_STORE_SHARE / workers
    # The results of all tasks wait for those of the first one, and as many wait for the training worker.
    source = MicroBatchSource(stream, store_bytes / 2 / (share.concurrency or int(free_cpus)))
    dataset = ray.data.read_datasource(
        source,
        num_cpus=share.cpus,
        concurrency=share.concurrency,
        override_num_blocks=max(1, len(source.spans)),
    )
    _configure(dataset.context, store_bytes)
    return dataset


def _configure(context: DataContext, store_bytes: float) -> None:
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=store_bytes)
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
