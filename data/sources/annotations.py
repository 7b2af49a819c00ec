"""Records of annotation files: listed in chunks for the scan, and read by position for training.

``position`` and ``extent`` locate a record within its file: first byte and number of bytes in a JSON or tar
file, row group and row in a parquet file, record batch and row in an Arrow file. To support another format,
add a ``RecordFormat`` to ``FORMATS`` and its name to ``SourceFormat``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data.records.record import BadSample, Reason
from data.sources.arrow_rows import batch_share, read_batch_rows, record_batches
from data.sources.bytes_at import read_at
from data.sources.json_spans import Span, line_spans, list_spans
from data.sources.locations import SourceFiles
from data.sources.parquet_rows import read_rows, row_groups, row_share
from data.sources.webdataset import read_shard_samples, shard_samples, shard_share
from lladav.config.schema import SourceFormat
from lladav.errors import UserError
from lladav.storage import file_size, location
from lladav.storage.local_cache import local_copy

RECORDS_PER_CHUNK = 1000

RawRecord = bytes | dict[str, Any]
"""A record before parsing: JSON text, or the columns of a row (``Unreadable`` values included)."""


@dataclass(frozen=True)
class RecordFormat:
    """How the records of one file format are located, read and named in messages."""

    runs: Callable[[str], Iterator[Iterable[tuple[int, int]]]]
    """(position, extent) of all records of a file, in runs of neighbours that can be read together.

    Raises ``UserError`` for a file that is not of this format."""
    read: Callable[[str, Sequence[int], Sequence[int]], Iterable[RawRecord]]
    """The records of a file at neighbouring positions with these extents, in order."""
    share: Callable[[str, int, int], float]
    """The part of a file up to the end of the record at a position with an extent, from 0 to 1."""
    description: str
    """Where a record is, for messages: a format string over ``position`` and ``extent``."""


def _json_runs(find: Callable[[Path], Iterator[Span]], path: str) -> Iterator[Iterator[tuple[int, int]]]:
    yield ((start, end - start) for start, end in find(Path(_local(path))))


def _read_json(path: str, positions: Sequence[int], extents: Sequence[int]) -> Iterator[bytes]:
    first = positions[0]
    text = read_at(_local(path), first, positions[-1] + extents[-1] - first)
    for position, extent in zip(positions, extents, strict=True):
        yield text[position - first : position - first + extent]


def _json_share(path: str, position: int, extent: int) -> float:
    return (position + extent) / Path(_local(path)).stat().st_size


FORMATS: dict[SourceFormat, RecordFormat] = {
    SourceFormat.json: RecordFormat(
        partial(_json_runs, list_spans), _read_json, _json_share, "byte {position}"
    ),
    SourceFormat.jsonl: RecordFormat(
        partial(_json_runs, line_spans), _read_json, _json_share, "byte {position}"
    ),
    SourceFormat.parquet: RecordFormat(
        row_groups, read_rows, row_share, "row {extent} of row group {position}"
    ),
    SourceFormat.arrow: RecordFormat(
        record_batches, read_batch_rows, batch_share, "row {extent} of record batch {position}"
    ),
    SourceFormat.webdataset: RecordFormat(
        shard_samples, read_shard_samples, shard_share, "the sample at byte {position}"
    ),
}
"""Every format that a source may have."""


@dataclass(frozen=True)
class Chunk:
    """Neighbouring records of one file; ``positions`` and ``extents`` are int64 arrays.

    ``source`` is the number of the source, ``file`` the number of the file within the source, and ``first``
    the number of the chunk's first record within the file.
    """

    source: int
    file: int
    path: str
    format: SourceFormat
    first: int
    positions: np.ndarray
    extents: np.ndarray
    read_bytes: int = 0
    """Bytes of all annotation files up to the end of the chunk."""

    def describe(self, number: int) -> str:
        """Where record ``number`` of the chunk is, for messages."""
        return describe_record(self.path, self.format, int(self.positions[number]), int(self.extents[number]))


def describe_record(path: str, source_format: SourceFormat, position: int, extent: int) -> str:
    """Where a record is, for messages."""
    text = _format(source_format).description.format(position=position, extent=extent)
    return f"{path}, {text}"


def list_chunks(sources: list[SourceFiles]) -> Iterator[Chunk]:
    """All records of the sources, in order.

    Raises ``UserError`` for a file that is not of its format and for a format that has no reader.
    """
    before = 0
    for number, source in enumerate(sources):
        for file, path in enumerate(source.annotations):
            first, size, share = 0, file_size(location(path)), _format(source.format).share
            for run in _format(source.format).runs(path):
                records = iter(run)
                while chunk := list(islice(records, RECORDS_PER_CHUNK)):
                    positions, extents = np.array(chunk, np.int64).T
                    read_bytes = before + round(size * share(path, *chunk[-1]))
                    yield Chunk(number, file, path, source.format, first, positions, extents, read_bytes)
                    first += len(chunk)
            before += size


def annotation_bytes(sources: list[SourceFiles]) -> int:
    """Bytes of all annotation files."""
    return sum(file_size(location(path)) for source in sources for path in source.annotations)


def read_chunk(chunk: Chunk) -> Iterable[RawRecord]:
    """The records of a chunk, in order."""
    return _format(chunk.format).read(chunk.path, chunk.positions.tolist(), chunk.extents.tolist())


def read_record(path: str, source_format: SourceFormat, position: int, extent: int) -> RawRecord:
    """One record; raises ``BadSample`` if the file is missing."""
    try:
        (record,) = _format(source_format).read(path, [position], [extent])
    except OSError as error:
        raise BadSample(Reason.missing_file, f"{path}: {error.strerror or error}") from None
    return record


def _format(name: SourceFormat) -> RecordFormat:
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"source format {name}: has no reader in data/sources/annotations.py; use {known}")
    return FORMATS[name]


@lru_cache(1024)
def _local(path: str) -> str:
    """The file itself or its local copy: one request to an object store per record would be too slow."""
    return str(local_copy(path))
