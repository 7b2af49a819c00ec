"""Shards of the input: consecutive rows that one Ray task reads.

Rows are numbered through all files of an input, so a row has the same number whenever the input is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from upath import UPath

from lladav.storage import as_os_error, as_user_error
from serve.errors import ApiError

SHARD_ROWS = 4096
"""Rows after which a shard ends."""
CHECK = "check the path and the credentials"

RowFields = Mapping[str, Any]
"""The fields of a row by name."""
ReadRow = RowFields | ApiError
"""A row, or why it cannot be read."""


@dataclass(frozen=True)
class InputShard:
    """Some consecutive rows of a file."""

    file: str
    first: int
    """Number of its first row."""
    rows: int
    start: int = 0
    stop: int = 0
    """Its range within the file: of bytes, of row groups or of record batches."""
    names: tuple[str, ...] = ()
    """Its files in a folder of images."""

    @property
    def numbers(self) -> range:
        """The numbers of its rows."""
        return range(self.first, self.first + self.rows)


@contextmanager
def opened(file: UPath) -> Iterator[BinaryIO]:
    """A file for reading; raises ``UserError`` if it cannot be read."""
    with as_user_error(f"{file}: cannot be read", CHECK), as_os_error(file), file.open("rb") as stream:
        yield cast("BinaryIO", stream)


def shards_of_parts(file: UPath, first: int, sizes: Iterable[int]) -> Iterator[InputShard]:
    """Shards of a file that consists of parts with ``sizes`` rows; a shard has whole parts."""
    start, rows, stop = 0, 0, 0
    for stop, size in enumerate(sizes, 1):
        rows += size
        if rows >= SHARD_ROWS:
            yield InputShard(str(file), first, rows, start, stop)
            start, first, rows = stop, first + rows, 0
    if rows:
        yield InputShard(str(file), first, rows, start, stop)


def without_nulls(value: Any) -> Any:
    """A value of a table without the keys that are null: a table has all columns in every row."""
    if isinstance(value, Mapping):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
