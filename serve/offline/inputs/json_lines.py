"""JSON Lines: one object per line. Lines that are empty are no rows."""

from __future__ import annotations

from collections.abc import Iterator

from upath import UPath

from lladav.storage import as_os_error, as_user_error, location, read_into
from serve.api.transport.body_reading import parse_json
from serve.errors import ApiError
from serve.offline.inputs.shards import CHECK, SHARD_ROWS, InputShard, ReadRow, opened

SHARD_BYTES = 2**26
"""Bytes after which a shard ends."""


def shards(file: UPath, first: int) -> Iterator[InputShard]:
    """Shards that end where a line ends. Reads the whole file once, to count its rows."""
    start = position = rows = 0
    with opened(file) as stream:
        for line in stream:
            position += len(line)
            rows += bool(line.strip())
            if rows == SHARD_ROWS or (rows and position - start >= SHARD_BYTES):
                yield InputShard(str(file), first, rows, start, position)
                start, first, rows = position, first + rows, 0
    if rows:
        yield InputShard(str(file), first, rows, start, position)


def read(shard: InputShard) -> Iterator[ReadRow]:
    """The rows of a shard; a line that is no object is an error."""
    content, file = bytearray(shard.stop - shard.start), location(shard.file)
    with as_user_error(f"{file}: cannot be read", CHECK), as_os_error(file):
        read_into(file, shard.start, memoryview(content))
    return (_row(line) for line in content.split(b"\n") if line.strip())


def _row(line: bytearray) -> ReadRow:
    try:
        value = parse_json(bytes(line), "row")
    except ApiError as error:
        return error
    if isinstance(value, dict):
        return value
    return ApiError(400, "row: not an object; write one JSON object per line", code="invalid_row")
