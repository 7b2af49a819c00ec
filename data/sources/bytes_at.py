"""Random access to parts of files; each process keeps a few of them open."""

from __future__ import annotations

import io
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

OPEN_FILES = 128


def read_at(path: str, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset`` on; fewer only where the file ends."""
    return os.pread(_opened(path).fileno(), size, offset)


def inflate(content: bytes) -> bytes:
    """The content of a deflated zip member; raises ``zlib.error`` where it is damaged."""
    return zlib.decompress(content, -zlib.MAX_WBITS)


def stream_at(path: str, offset: int, size: int) -> BinaryIO:
    """A seekable stream over a part of a file, for readers that need its beginning only."""
    return io.BufferedReader(_Part(path, offset, size))


@lru_cache(OPEN_FILES)
def _opened(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


class _Part(io.RawIOBase):
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

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        content = read_at(self._path, self._offset + self._at, wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
