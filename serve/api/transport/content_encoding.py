"""Bodies that a client has compressed: gzip is decompressed piece by piece, in a thread."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from serve.concurrency import ThreadOffloader
from serve.errors import ApiError

PLAIN = ("", "identity")
GZIP = ("gzip", "x-gzip")
WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib's code for data with gzip's header and checksum."""
PIECE_BYTES = 2**20
"""Bytes that one call decompresses to, at most: a few compressed bytes may stand for a thousand times as
many."""


class ContentDecoder:
    """Removes the ``Content-Encoding`` of bodies."""

    def __init__(self) -> None:
        self._offload = ThreadOffloader("gzip")

    def decoded(self, chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
        """The body of some chunks, in pieces that the caller counts. Raises ``ApiError`` 415 for an encoding
        other than gzip; the pieces raise 400 for data that is not gzip."""
        name = encoding.strip().lower()
        if name in PLAIN:
            return chunks
        if name in GZIP:
            return self._decompressed(chunks)
        message = f"Content-Encoding: {name[:40]} is not supported; send gzip, or leave it out"
        raise ApiError(415, message, code="unsupported_encoding")

    async def _decompressed(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        stream = zlib.decompressobj(WINDOW_BITS)
        async for chunk in chunks:
            piece = await self._offload(_decompress, stream, chunk)
            while piece:
                yield piece
                # also without a tail: the rest of a piece may be inside of the stream
                piece = await self._offload(_decompress, stream, stream.unconsumed_tail)
        if not stream.eof:
            raise _not_gzip("ends too early")


def _decompress(stream: zlib._Decompress, chunk: bytes) -> bytes:
    """At most ``PIECE_BYTES`` of the data; ``stream.unconsumed_tail`` has the input that is left."""
    try:
        piece = stream.decompress(chunk, PIECE_BYTES)
    except zlib.error:
        raise _not_gzip("is damaged") from None
    if stream.unused_data:
        raise _not_gzip("has bytes after its end")
    return piece


def _not_gzip(reason: str) -> ApiError:
    message = f"body: the gzip data {reason}; compress it again, or send it without Content-Encoding"
    return ApiError(400, message, code="invalid_gzip")
