"""The sizes of plain PNG and JPEG files are those that Pillow finds, and other files are left to Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from lladav.inputs import image_headers
from lladav.inputs.image_files import LOCAL_FORMATS
from lladav.inputs.image_headers import JPEG_START, PNG_START, plain_size

MARKERS = [*range(0xFFC0, 0xFFFF), 0xFF00, 0xFFFF]
APPLICATIONS = [start for start, _ in image_headers.JPEG_SEGMENTS.values()] + [b"Exif\0\0", b"MPF\0"]


def encoded(mode: str, size: tuple[int, int], name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, name, **options)
    return stream.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_the_size_of_a_plain_png(mode: str) -> None:
    assert plain_size(encoded(mode, (40, 30), "PNG", dpi=(72, 72))) == (40, 30)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"icc_profile": bytes(300)}, {"comment": "x"}]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_size_of_a_plain_jpeg(mode: str, options: dict[str, Any]) -> None:
    assert plain_size(encoded(mode, (40, 30), "JPEG", **options)) == (40, 30)


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_file_with_an_orientation_is_not_plain(name: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert plain_size(encoded("RGB", (40, 30), name, exif=exif)) is None


def test_other_formats_and_large_images_are_not_plain() -> None:
    assert plain_size(encoded("RGB", (40, 30), "BMP")) is None
    assert plain_size(b"") is None
    assert plain_size(encoded("1", (8192, 8193), "PNG")) is None


def check(content: bytes) -> None:
    """A size that is found is that of Pillow."""
    size = plain_size(content)
    if size:
        with Image.open(io.BytesIO(content), formats=LOCAL_FORMATS) as image:
            assert image.size == size
            assert ExifTags.Base.Orientation not in Image.Image.getexif(image)  # reads no pixels


sizes = st.integers(0, 300)
bodies = st.binary(max_size=12) | st.binary(min_size=30, max_size=40)
names = st.sampled_from([*image_headers.PNG_CHUNKS, b"IHDR", b"tRNS", b"eXIf", b"acTL", b"zzzz"])
headers = st.builds(
    lambda *values: struct.pack(">IIBBBBB", *values),
    sizes,
    sizes,
    st.sampled_from([1, 2, 3, 4, 8, 16]),
    st.integers(0, 7),
    *[st.integers(0, 1)] * 3,
)


@given(
    headers | bodies,
    st.lists(st.tuples(names, bodies), max_size=3),
    st.integers(0, 90),
    st.binary(max_size=1),
)
def test_any_png_has_the_size_that_pillow_finds(
    header: bytes, chunks: list[tuple[bytes, bytes]], where: int, damage: bytes
) -> None:
    parts = [png_chunk(b"IHDR", header), *(png_chunk(*chunk) for chunk in chunks)]
    content = PNG_START + b"".join(parts) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    check(content)
    check(content[:where] + damage + content[where + len(damage) :])


frames = st.builds(
    lambda bits, height, width, layers, rest: struct.pack(">BHHB", bits, height, width, layers) + rest,
    st.sampled_from([8, 8, 8, 12]),
    sizes,
    sizes,
    st.integers(1, 4),
    st.sampled_from([bytes(3), bytes(9), bytes(12), bytes(10)]),
)
tables = st.lists(st.integers(0, 40).map(lambda kind: bytes([kind, *[1] * 64])), max_size=2).map(b"".join)
contents = st.builds(bytes.__add__, st.sampled_from(APPLICATIONS), bodies) | tables | frames
segments = st.tuples(st.sampled_from(MARKERS), contents) | st.tuples(
    st.sampled_from([0xFFC0, 0xFFC2]), frames
)


@given(st.lists(segments, max_size=4), bodies, st.integers(0, 90), st.binary(max_size=1))
def test_any_jpeg_has_the_size_that_pillow_finds(
    parts: list[tuple[int, bytes]], scan: bytes, where: int, damage: bytes
) -> None:
    content = JPEG_START + b"".join(segment(*part) for part in [*parts, (0xFFDA, scan)])
    check(content)
    check(content[:where] + damage + content[where + len(damage) :])


def test_a_header_that_is_cut_short_is_not_plain() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    for name, header in (("PNG", 33), ("JPEG", 600)):
        stream = io.BytesIO()
        noise.save(stream, name)
        assert plain_size(stream.getvalue()) == (40, 30)
        assert all(plain_size(stream.getvalue()[:end]) is None for end in range(header))
