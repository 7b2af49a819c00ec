"""Random access to parts of files; each process keeps a few of them open."""

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
IN_MEMORY = 1 << 26
"""Bytes of an inflated member that are kept in memory; the rest of a larger one is in a temporary file."""
CHUNK = 1 << 20
REMOTE_BUFFER = 1 << 18
"""Bytes of an object that a stream asks for at a time."""
SCAN_BLOCK = 1 << 23
"""The same for a pass over a whole archive, which skips members that are larger."""


def read_at(path: str, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset`` on; fewer only where the file ends.

    Of a URI they are one request. Raises ``StorageError`` where the store does not answer it; an ``OSError``
    would count as damage of the image.
    """
    if is_uri(path):
        return _request(path, offset, size)
    return os.pread(_opened(path).fileno(), size, offset)


def _request(uri: str, offset: int, size: int) -> bytes:
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
    """A stream over the content of a deflated zip member, in a temporary file where it is large.

    Raises ``zlib.error`` where it is damaged or cut short.
    """
    content = zlib.decompressobj(-zlib.MAX_WBITS)
    stream = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the caller closes it
    for start in range(0, size, CHUNK):
        packed = read_at(path, offset + start, min(CHUNK, size - start))
        while packed:
            stream.write(content.decompress(packed, CHUNK))
            packed = content.unconsumed_tail
    stream.write(content.flush())
    if not content.eof:
        raise zlib.error("incomplete or truncated stream")
    stream.seek(0)
    return cast(BinaryIO, stream)


def stream_at(path: str, offset: int, size: int) -> BinaryIO:
    """A seekable stream over a part of a file, for readers that need its beginning only."""
    buffer = REMOTE_BUFFER if is_uri(path) else io.DEFAULT_BUFFER_SIZE
    return io.BufferedReader(_Slice(path, offset, size), min(buffer, max(1, size)))


def open_archive(path: str) -> BinaryIO:
    """An archive as a stream, for one pass over its headers."""
    if is_uri(path):
        place = _location(path)
        return cast(BinaryIO, place.fs.open(place.path, "rb", block_size=SCAN_BLOCK, cache_type="readahead"))
    return Path(path).open("rb")


@lru_cache(OPEN_FILES)
def _location(uri: str) -> UPath:
    return location(uri)


@lru_cache(OPEN_FILES)
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


class _Slice(io.RawIOBase):
    def __init__(self, path: str, offset: int, size: int) -> None:
        self._path, self._offset, self._size, self._at = path, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readall(self) -> bytes:
        content = read_at(self._path, self._offset + self._at, max(0, self._size - self._at))
        self._at += len(content)
        return content

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        content = read_at(self._path, self._offset + self._at, wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
