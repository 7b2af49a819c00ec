"""Rows of parquet files by row group and row number.

A value that Arrow cannot convert becomes ``Unreadable``, so that it costs its own row and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.records.parsing import COLUMNS
from data.records.record import Unreadable
from lladav.errors import UserError
from lladav.storage.local_cache import local_copy

CONVERSION_ERRORS = (
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    ImportError,
    pa.ArrowException,
)
"""What Arrow raises for a value that Python cannot represent, such as text that is not UTF-8 or the year
300000."""


def row_groups(path: str) -> Iterator[Iterable[tuple[int, int]]]:
    """(row group, row) of all rows of a file, in one iterable for each row group."""
    metadata = _open(path).metadata
    for group in range(metadata.num_row_groups):
        yield zip(repeat(group), range(metadata.row_group(group).num_rows), strict=False)


def read_rows(path: str, groups: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Neighbouring rows of one row group; only columns that a record can have are read."""
    try:
        table = _row_group(path, groups[0]).slice(rows[0], len(rows))
    except (OSError, pa.ArrowException) as error:
        return [dict.fromkeys(COLUMNS, _unreadable(error)) for _ in rows]
    try:
        return table.to_pylist()
    except CONVERSION_ERRORS:
        return [_row(table.slice(number, 1)) for number in range(len(table))]


def _row(table: pa.Table) -> dict[str, Any]:
    return {name: _value(table[name]) for name in table.column_names}


def _value(column: pa.ChunkedArray) -> Any:
    try:
        return column[0].as_py()
    except CONVERSION_ERRORS as error:
        return _unreadable(error)


def _unreadable(error: Exception) -> Unreadable:
    return Unreadable(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


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
    return file.read_row_group(group, columns=[c for c in COLUMNS if c in file.schema_arrow.names])
