"""Random access to byte ranges of local files and of objects; each process keeps a few files open."""

from __future__ import annotations

import io
import os
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from upath import UPath

from lladav.errors import StorageError
from lladav.storage import is_uri, location, read_into

OPEN_FILES = 128
MAX_BYTES_IN_MEMORY = 1 << 26
"""An inflated member with more bytes is kept in a temporary file instead."""
INFLATE_CHUNK_BYTES = 1 << 20
REMOTE_BUFFER_BYTES = 1 << 18
"""Bytes per request of a stream over an object."""
SCAN_BLOCK_BYTES = 1 << 23
"""Bytes per request of a pass over the headers of an archive; larger members are skipped."""


def read_at(path: str, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset`` on, or fewer if the file ends before; one request for a URI.

    Raises ``StorageError`` if the object store does not answer: an ``OSError`` would count as a damaged
    image.
    """
    if is_uri(path):
        return _read_object(path, offset, size)
    return os.pread(_open_file(path).fileno(), size, offset)


def _read_object(uri: str, offset: int, size: int) -> bytes:
    content = bytearray(size)
    if not size:
        return b""
    try:
        return bytes(content[: read_into(_location(uri), offset, memoryview(content))])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror}") from error


def inflated_at(path: str, offset: int, size: int) -> BinaryIO:
    """A stream over the inflated content of a deflated zip member.

    Raises ``zlib.error`` if the member is damaged or cut short.
    """
    content = zlib.decompressobj(-zlib.MAX_WBITS)
    stream = tempfile.SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    for start in range(0, size, INFLATE_CHUNK_BYTES):
        packed = read_at(path, offset + start, min(INFLATE_CHUNK_BYTES, size - start))
        while packed:
            stream.write(content.decompress(packed, INFLATE_CHUNK_BYTES))
            packed = content.unconsumed_tail
    stream.write(content.flush())
    if not content.eof:
        raise zlib.error("incomplete or truncated stream")
    stream.seek(0)
    return cast(BinaryIO, stream)


def stream_at(path: str, offset: int, size: int) -> BinaryIO:
    """A seekable stream over a byte range of a file; it reads only what the caller asks for."""
    buffer = REMOTE_BUFFER_BYTES if is_uri(path) else io.DEFAULT_BUFFER_SIZE
    return io.BufferedReader(_Slice(path, offset, size), min(buffer, max(1, size)))


def open_archive(path: str) -> BinaryIO:
    """A stream over an archive, tuned for one pass over the headers of its members."""
    if is_uri(path):
        file = _location(path)
        return cast(
            BinaryIO, file.fs.open(file.path, "rb", block_size=SCAN_BLOCK_BYTES, cache_type="readahead")
        )
    return Path(path).open("rb")


@lru_cache(OPEN_FILES)
def _location(uri: str) -> UPath:
    return location(uri)


@lru_cache(OPEN_FILES)
def _open_file(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


class _Slice(io.RawIOBase):
    def __init__(self, path: str, offset: int, size: int) -> None:
        self._path, self._offset, self._size, self._position = path, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readall(self) -> bytes:
        content = read_at(self._path, self._offset + self._position, max(0, self._size - self._position))
        self._position += len(content)
        return content

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(0, self._size - self._position))
        content = read_at(self._path, self._offset + self._position, wanted)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
