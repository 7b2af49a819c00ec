"""Sample images, encoded images, and decoding in this process as a worker does it."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import Visual, VisualKind
from serve.errors import ApiError
from serve.media.loader import MediaReference, decode

GEOMETRY = ViewGeometry(
    tile=16, side=4, grid=3, shrink_above_views=6, frame_side=2, newline_per_frame_row=True
)
PARAM = "messages[0].content[1].image_url.url"
PIXELS = 10_000
LEAKS = ("secret", "/work", "/usr", "base64,A", "cannot identify")
"""Parts of images, queries and paths, and Pillow's message with an object's address: no error shows them."""


def encoded(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def sample_image(width: int = 24, height: int = 18) -> Image.Image:
    """Noise above a gradient, so that every format has something to compress."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    noise[height // 2 :] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(noise)


def uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """An 8-bit grey PNG with this header; the chunks need not match it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", head, *chunks, chunk(b"IEND", b"")))


def named(*urls: str) -> list[MediaReference]:
    params = (f"messages[0].content[{index}].image_url.url" for index in itertools.count(1))
    return [MediaReference(url, param) for url, param in zip(urls, params, strict=False)]


def checked(error: ApiError) -> ApiError:
    assert error.param in [each.param for each in named(*"abcdefghij")]
    assert "\n" not in error.message
    assert len(error.message) < 250
    assert not any(leak in error.message for leak in LEAKS)
    return error


def decoded(content: bytes, kind: VisualKind = VisualKind.tiled, pixels: int = PIXELS) -> Visual | ApiError:
    """The result of a worker, computed in this process; other errors than ``ApiError`` are raised."""
    try:
        return decode(content, kind, GEOMETRY, pixels, PARAM)
    except ApiError as error:
        return error


def refused(content: bytes, kind: VisualKind = VisualKind.tiled, pixels: int = PIXELS) -> ApiError:
    found = decoded(content, kind, pixels)
    assert isinstance(found, ApiError)
    return checked(found)
