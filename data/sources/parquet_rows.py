"""Rows of parquet files by row group and row number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.sources.table_rows import record_columns, rows_of, unreadable_rows
from lladav.errors import UserError
from lladav.storage.local_cache import local_copy


def row_groups(path: str) -> Iterator[Iterable[tuple[int, int]]]:
    """(row group, row) of all rows of a file, in one iterable for each row group."""
    metadata = _open(path).metadata
    for group in range(metadata.num_row_groups):
        yield zip(repeat(group), range(metadata.row_group(group).num_rows), strict=False)


def row_share(path: str, group: int, row: int) -> float:
    """The part of a file's rows up to this one, from 0 to 1."""
    metadata = _open(path).metadata
    before = sum(metadata.row_group(each).num_rows for each in range(group))
    return (before + row + 1) / metadata.num_rows


def read_rows(path: str, groups: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Neighbouring rows of one row group; only columns that a record can have are read."""
    try:
        return rows_of(_row_group(path, groups[0]).slice(rows[0], len(rows)))
    except (OSError, pa.ArrowException) as error:
        return unreadable_rows(rows, error)


@lru_cache(16)
def _open(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(str(local_copy(path)), memory_map=True)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a parquet file ({reason}); download it again") from None


@lru_cache(2)
def _row_group(path: str, group: int) -> pa.Table:
    """A whole row group in memory; data sets with embedded images have small ones."""
    file = _open(path)
    return file.read_row_group(group, columns=record_columns(file.schema_arrow))
