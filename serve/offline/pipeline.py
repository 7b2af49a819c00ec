"""The pipeline of a batch: Ray Data reads rows in tasks, and a pool of engine actors answers them.

Blocks between the two hold pickled requests. An actor has several blocks at a time, so its engine never runs
empty while the last answers of a block are decoded.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from serve.offline.decoder import RowDecoder
from serve.offline.inputs.forms import InputForm
from serve.offline.inputs.shards import InputShard
from serve.offline.reading import SHARD, UnansweredShard, read_requests
from serve.offline.results import ResultForm
from serve.offline.settings import BatchSettings

READ_CPUS = 0.25
"""CPUs that a reading task reserves: it mostly waits for files and for engines."""
BLOCKS = 4
"""Blocks that an actor decodes at a time; as many wait in it."""
ROWS_PER_ENGINE_ROW = 4
"""Rows of a block for each row of the engine."""
BLOCKS_PER_ACTOR = 16
"""Blocks for each actor that even a small input is cut into, so that all actors get work."""


def unanswered(form: InputForm, shards: Sequence[InputShard], done: np.ndarray) -> list[UnansweredShard]:
    """The shards with rows that have no answer; ``done`` marks the others (bool array over all rows)."""
    parts = ((shard, done[shard.first : shard.numbers.stop]) for shard in shards)
    return [UnansweredShard(form, shard, part.copy()) for shard, part in parts if not part.all()]


def answers(
    shards: Sequence[UnansweredShard],
    settings: BatchSettings,
    root: str,
    form: ResultForm,
    decoder: type[RowDecoder] = RowDecoder,
) -> Iterator[pa.Table]:
    """The results of all rows without an answer, in any order, on the connected Ray."""
    _leave_progress_to_the_batch()
    items = [{SHARD: pickle.dumps(shard)} for shard in shards]
    rows, engine = rows_per_block(shards, settings), settings.engine
    pool = ActorPoolStrategy(
        min_size=max(1, engine.min_replicas),
        max_size=engine.max_replicas,
        max_concurrent_calls_per_actor=BLOCKS,
    )
    dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            partial(read_requests, settings=settings, root=root),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READ_CPUS,
        )
        .repartition(target_num_rows_per_block=rows)
        .map_batches(
            decoder,
            fn_constructor_args=(settings, form),
            batch_size=None,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=engine.cpus,
            num_gpus=engine.gpus,
        )
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _leave_progress_to_the_batch() -> None:
    """Turn off the progress bars of Ray Data, and the notices about them and about ended executions."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


def rows_per_block(shards: Sequence[UnansweredShard], settings: BatchSettings) -> int:
    """Rows of a block: enough that an actor's blocks fill its engine, and not more than an even share."""
    rows = sum(len(shard.done) - int(shard.done.sum()) for shard in shards)
    most = settings.task_rows or ROWS_PER_ENGINE_ROW * settings.engine.max_rows
    return max(1, min(most, math.ceil(rows / (BLOCKS_PER_ACTOR * settings.engine.max_replicas))))
