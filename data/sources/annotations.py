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

from data.sources.bytes_at import read_at
from data.sources.json_spans import Span, line_spans, list_spans
from data.sources.locations import SourceFiles
from lladav.errors import UserError
from lladav.schema import SourceFormat

RECORDS_PER_CHUNK = 1000
COLUMNS = ("id", "image", "video", "conversations")

Raw = bytes | dict[str, Any]
"""A record as it lies on disk: JSON text, or the columns of a row."""


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
        yield from (
            _row_group(chunk.path, int(chunk.positions[0]))
            .slice(int(chunk.extents[0]), len(chunk.extents))
            .to_pylist()
        )
        return
    start, end = int(chunk.positions[0]), int(chunk.positions[-1] + chunk.extents[-1])
    text = read_at(chunk.path, start, end - start)
    for position, extent in zip(chunk.positions - start, chunk.extents, strict=True):
        yield text[position : position + extent]


def read_record(path: str, source_format: SourceFormat, position: int, extent: int) -> Raw:
    """The record at a place."""
    if source_format is SourceFormat.parquet:
        return _row_group(path, position).slice(extent, 1).to_pylist()[0]
    return read_at(path, position, extent)


def _places(path: str, source_format: SourceFormat) -> Iterator[list[tuple[int, int]]]:
    if source_format is SourceFormat.parquet:
        yield from _rows(path)
        return
    spans = list_spans(Path(path)) if source_format is SourceFormat.json else line_spans(Path(path))
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
        return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: not a parquet file ({str(error).splitlines()[0]}); download it again"
        ) from None


@lru_cache(2)
def _row_group(path: str, group: int) -> pa.Table:
    """The columns of a record. Groups are read whole: data sets with embedded pictures keep them small."""
    file = _parquet(path)
    return file.read_row_group(group, columns=[c for c in COLUMNS if c in file.schema_arrow.names])
