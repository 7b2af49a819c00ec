"""Rows of the Arrow files of Hugging Face datasets (``save_to_disk``) by record batch and row number.

A file is mapped into memory: only the pages of the rows that are asked for are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import pyarrow as pa

from data.sources.table_rows import record_columns, rows_of, unreadable_rows
from lladav.errors import UserError
from lladav.storage.local_cache import local_copy


def record_batches(path: str) -> Iterator[Iterable[tuple[int, int]]]:
    """(record batch, row) of all rows of a file, in one iterable for each record batch."""
    for number, batch in enumerate(_batches(path)):
        yield zip(repeat(number), range(batch.num_rows), strict=False)


def batch_share(path: str, batch: int, row: int) -> float:
    """The part of a file's rows up to this one, from 0 to 1."""
    sizes = [each.num_rows for each in _batches(path)]
    return (sum(sizes[:batch]) + row + 1) / sum(sizes)


def read_batch_rows(path: str, batches: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Neighbouring rows of one record batch; only columns that a record can have are read."""
    try:
        return rows_of(_batches(path)[batches[0]].slice(rows[0], len(rows)))
    except pa.ArrowException as error:
        return unreadable_rows(rows, error)


@lru_cache(16)
def _batches(path: str) -> list[pa.RecordBatch]:
    """The record batches of a file in Arrow's stream format, or in its file format."""
    content = pa.memory_map(str(local_copy(path)))
    try:
        batches = list(_stream(content))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a whole Arrow file ({reason}); download it again") from None
    return [batch.select(record_columns(batch.schema)) for batch in batches]


def _stream(content: pa.MemoryMappedFile) -> Iterable[pa.RecordBatch]:
    try:
        return pa.ipc.open_stream(content)
    except pa.ArrowInvalid:
        file = pa.ipc.open_file(content)
        return (file.get_batch(number) for number in range(file.num_record_batches))
