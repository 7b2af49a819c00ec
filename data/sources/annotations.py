"""Records by their place: cut into chunks for one pass over everything, and one at a time for training.

A place is two numbers, ``position`` and ``extent``: first byte and number of bytes in a JSON file, row group
and row in a parquet file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.records.parsing import COLUMNS
from data.records.record import BadSample, Reason, Unreadable
from data.sources.bytes_at import read_at
from data.sources.json_spans import Span, line_spans, list_spans
from data.sources.locations import SourceFiles
from lladav.config.schema import SourceFormat
from lladav.errors import UserError
from lladav.storage.local_cache import local_copy

RECORDS_PER_CHUNK = 1000
CONVERSION_ERRORS = (
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    ImportError,
    pa.ArrowException,
)
"""What Arrow raises for a value that Python cannot hold, such as text that is not UTF-8 or a year 300000."""

Raw = bytes | dict[str, Any]
"""A record as it lies on disk: JSON text, or the columns of a row, ``Unreadable`` ones included."""


@dataclass(frozen=True)
class Chunk:
    """Neighbouring records of one file and their places (int64 arrays).

    ``source`` and ``file`` count through the sources and their files, ``first`` through the file's records.
    """

    source: int
    file: int
    path: str
    format: SourceFormat
    first: int
    positions: np.ndarray
    extents: np.ndarray

    def place(self, number: int) -> str:
        """Where a record lies, for a reader of messages."""
        return place_of(self.path, self.format, int(self.positions[number]), int(self.extents[number]))


def place_of(path: str, source_format: SourceFormat, position: int, extent: int) -> str:
    """A place in words."""
    if source_format is SourceFormat.parquet:
        return f"{path}, row {extent} of row group {position}"
    return f"{path}, byte {position}"


def chunks(sources: list[SourceFiles]) -> Iterator[Chunk]:
    """Every record of the sources, in order; ``source`` and ``file`` count through the lists.

    Raises ``UserError`` for a file that is not of its format.
    """
    for number, source in enumerate(sources):
        for file, path in enumerate(source.annotations):
            first = 0
            for places in _places(path, source.format):
                positions, extents = np.array(places, np.int64).T
                yield Chunk(number, file, path, source.format, first, positions, extents)
                first += len(places)


def read_chunk(chunk: Chunk) -> Iterator[Raw]:
    """The records of a chunk, in order."""
    if chunk.format is SourceFormat.parquet:
        yield from _rows_at(chunk.path, int(chunk.positions[0]), int(chunk.extents[0]), len(chunk.extents))
        return
    start, end = int(chunk.positions[0]), int(chunk.positions[-1] + chunk.extents[-1])
    text = read_at(_local(chunk.path), start, end - start)
    for position, extent in zip(chunk.positions - start, chunk.extents, strict=True):
        yield text[position : position + extent]


def read_record(path: str, source_format: SourceFormat, position: int, extent: int) -> Raw:
    """The record at a place; raises ``BadSample`` where the file has gone."""
    try:
        if source_format is SourceFormat.parquet:
            return _rows_at(path, position, extent, 1)[0]
        return read_at(_local(path), position, extent)
    except OSError as error:
        raise BadSample(Reason.missing_file, f"{path}: {error.strerror or error}") from None


@lru_cache(1024)
def _local(path: str) -> str:
    """The file, or its copy on this machine: records are small, and a request for each is too slow."""
    return str(local_copy(path))


def _rows_at(path: str, group: int, first: int, count: int) -> list[Raw]:
    """Rows of a row group. A value that cannot be read becomes ``Unreadable`` and costs its own row alone."""
    try:
        table = _row_group(path, group).slice(first, count)
    except (OSError, pa.ArrowException) as error:
        return [dict.fromkeys(COLUMNS, _unreadable(error)) for _ in range(count)]
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


def _places(path: str, source_format: SourceFormat) -> Iterator[list[tuple[int, int]]]:
    if source_format is SourceFormat.parquet:
        yield from _rows(path)
        return
    file = Path(_local(path))
    spans = list_spans(file) if source_format is SourceFormat.json else line_spans(file)
    while group := list(islice(spans, RECORDS_PER_CHUNK)):
        yield [_extent(span) for span in group]


def _extent(span: Span) -> tuple[int, int]:
    return span[0], span[1] - span[0]


def _rows(path: str) -> Iterator[list[tuple[int, int]]]:
    metadata = _parquet(path).metadata
    for group in range(metadata.num_row_groups):
        rows = range(metadata.row_group(group).num_rows)
        for start in range(0, len(rows), RECORDS_PER_CHUNK):
            yield [(group, row) for row in rows[start : start + RECORDS_PER_CHUNK]]


@lru_cache(16)
def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(_local(path), memory_map=True)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: not a parquet file ({str(error).splitlines()[0]}); download it again"
        ) from None


@lru_cache(2)
def _row_group(path: str, group: int) -> pa.Table:
    """The columns of a record. Groups are read whole: data sets with embedded pictures keep them small."""
    file = _parquet(path)
    return file.read_row_group(group, columns=[c for c in COLUMNS if c in file.schema_arrow.names])
