"""Tables: parquet files, and Arrow files as Hugging Face datasets write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from lladav.errors import UserError
from lladav.storage import location
from lladav.storage.local_cache import local_copy
from serve.offline.inputs.shards import InputShard, ReadRow, opened, shards_of_parts, without_nulls

BATCH_ROWS = 64
"""Rows that are read together: few, because rows may hold images."""


def parquet_shards(file: UPath, first: int) -> Iterator[InputShard]:
    """Shards of whole row groups."""
    with _parquet(file) as table:
        groups = range(table.metadata.num_row_groups)
        sizes = [table.metadata.row_group(group).num_rows for group in groups]
    yield from shards_of_parts(file, first, sizes)


def read_parquet(shard: InputShard) -> Iterator[ReadRow]:
    """The rows of a shard."""
    with _parquet(location(shard.file)) as table:
        groups = [*range(shard.start, shard.stop)]
        yield from _rows(table.iter_batches(batch_size=BATCH_ROWS, row_groups=groups))


def parquet_schema(file: UPath) -> pa.Schema:
    """The columns of a file."""
    with _parquet(file) as table:
        return table.schema_arrow


def arrow_shards(file: UPath, first: int) -> Iterator[InputShard]:
    """Shards of whole record batches."""
    with _arrow(file) as stream:
        sizes = [batch.num_rows for batch in stream]
    yield from shards_of_parts(file, first, sizes)


def read_arrow(shard: InputShard) -> Iterator[ReadRow]:
    """The rows of a shard. Batches before it are skipped without reading them: the file is mapped."""
    with _arrow(location(shard.file)) as stream:
        for number, batch in enumerate(stream):
            if shard.start <= number < shard.stop:
                parts = range(0, batch.num_rows, BATCH_ROWS)
                yield from _rows(batch.slice(start, BATCH_ROWS) for start in parts)


def arrow_schema(file: UPath) -> pa.Schema:
    """The columns of a file."""
    with _arrow(file) as stream:
        return stream.schema


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[ReadRow]:
    return (without_nulls(row) for batch in batches for row in batch.to_pylist())


@contextmanager
def _parquet(file: UPath) -> Iterator[pq.ParquetFile]:
    with _arrow_errors(file, "parquet"), opened(file) as stream:
        yield pq.ParquetFile(stream)


@contextmanager
def _arrow(file: UPath) -> Iterator[pa.RecordBatchStreamReader]:
    with _arrow_errors(file, "Arrow stream"), pa.memory_map(str(local_copy(file))) as mapped:
        yield pa.ipc.open_stream(mapped)


@contextmanager
def _arrow_errors(file: UPath, kind: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a whole {kind} file ({reason}); write it again") from None
