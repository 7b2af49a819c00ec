"""The size in the header of a plain PNG or JPEG file, read without an image library.

Pillow takes longer to open a file than a scan does for the rest of its record. Most files of a data set are
plain: their header is valid and holds no metadata that could turn the image. ``plain_size`` accepts only
headers that Pillow accepts with the same size; any other file is left to Pillow.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

HEAD_BYTES = 4096
"""Bytes that contain the header of almost every plain file."""
MAX_PIXELS = 1 << 26
"""Pillow decides about larger images, because it refuses decompression bombs."""

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per channel that a color type may have."""
PNG_CHUNKS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"PLTE": 0}
"""Chunks of plain files between IHDR and IDAT, with their minimum lengths in bytes."""

JPEG_START = b"\xff\xd8"
FRAMES, SCAN, QUANTIZATION = (0xFFC0, 0xFFC1, 0xFFC2), 0xFFDA, 0xFFDB
TABLE_BYTES = 65
"""Bytes of a quantization table of 8 bits."""
JPEG_SEGMENTS = {
    0xFFC4: (b"", 0),
    0xFFDD: (b"", 0),
    0xFFFE: (b"", 0),
    0xFFE0: (b"JFIF\0", 14),
    0xFFE2: (b"ICC_PROFILE\0", 14),
    0xFFEC: (b"", 0),
    0xFFEE: (b"Adobe", 12),
}
"""Other segments of plain files: how they begin, and their minimum lengths in bytes."""

_CHUNK, _CHECKSUM, _IMAGE_HEADER = struct.Struct(">I4s"), struct.Struct(">I"), struct.Struct(">IIBBxB")
_SEGMENT, _FRAME = struct.Struct(">HH"), struct.Struct(">BHHB")


class _NotPlainError(Exception):
    """The header is damaged, or has something that only Pillow reads."""


def plain_size(head: bytes) -> tuple[int, int] | None:
    """Return (width, height) of the file that begins with the bytes ``head``; None if it is not plain."""
    try:
        if head.startswith(PNG_START):
            width, height = _png_size(head)
        elif head.startswith(JPEG_START):
            width, height = _jpeg_size(head)
        else:
            return None
    except (_NotPlainError, struct.error):  # struct.error: the header is longer than ``head``
        return None
    return (width, height) if 0 < width * height <= MAX_PIXELS else None


def _png_size(head: bytes) -> tuple[int, int]:
    chunks = _png_chunks(head)
    if next(chunks) != (b"IHDR", 13):
        raise _NotPlainError
    width, height, depth, color, filters = _IMAGE_HEADER.unpack_from(head, len(PNG_START) + _CHUNK.size)
    if filters or depth not in PNG_DEPTHS.get(color, ()):
        raise _NotPlainError
    for name, length in chunks:
        if name not in PNG_CHUNKS or length < PNG_CHUNKS[name]:
            raise _NotPlainError
    return width, height


def _png_chunks(head: bytes) -> Iterator[tuple[bytes, int]]:
    """The name and length of each chunk before the pixels, with its checksum verified."""
    position = len(PNG_START)
    while True:
        length, name = _CHUNK.unpack_from(head, position)
        if name == b"IDAT":
            return
        end = position + _CHUNK.size + length
        if _CHECKSUM.unpack_from(head, end)[0] != zlib.crc32(head[position + 4 : end]):
            raise _NotPlainError
        yield name, length
        position = end + _CHECKSUM.size


def _jpeg_size(head: bytes) -> tuple[int, int]:
    size = None
    for marker, body in _jpeg_segments(head):
        if marker in FRAMES and size is None:
            size = _frame_size(body)
        elif not _is_plain(marker, body):
            raise _NotPlainError
    if size is None:
        raise _NotPlainError
    return size


def _jpeg_segments(head: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker and content of each segment before the first scan."""
    marker, position = 0, len(JPEG_START)
    while marker != SCAN:
        marker, length = _SEGMENT.unpack_from(head, position)
        end = position + 2 + length
        if length < 2 or end > len(head):
            raise _NotPlainError
        if marker != SCAN:
            yield marker, head[position + _SEGMENT.size : end]
        position = end


def _frame_size(body: bytes) -> tuple[int, int]:
    precision, height, width, layers = _FRAME.unpack_from(body)
    if precision != 8 or layers not in (1, 3, 4) or len(body) != 6 + 3 * layers:
        raise _NotPlainError
    return width, height


def _is_plain(marker: int, body: bytes) -> bool:
    if marker == QUANTIZATION:
        return len(body) % TABLE_BYTES == 0 and max(body[::TABLE_BYTES], default=0) < 16
    if marker not in JPEG_SEGMENTS:
        return False
    start, least = JPEG_SEGMENTS[marker]
    return body.startswith(start) and len(body) >= least
