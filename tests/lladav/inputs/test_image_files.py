"""Every image file becomes upright 8-bit RGB on white, and its header gives the size of the result."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from lladav.config.schema import Pixels
from lladav.errors import MediaError
from lladav.inputs.image_files import LOCAL_FORMATS, image_size, read_image, to_rgb

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)

SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""The EXIF standard's table: which sides of the scene a file's first row and first column are."""


def encoded(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    """The file that an image is saved to."""
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def read(content: bytes, pixels: Pixels = Pixels.displayed) -> Image.Image:
    """Decode a file and check the size in its header."""
    image = read_image(io.BytesIO(content), "a file", pixels)
    assert image_size(io.BytesIO(content), "a file", pixels) == image.size
    assert image.mode == "RGB"
    return image


def seen(image: Image.Image, name: str = "PNG", **options: Any) -> Image.Image:
    """An image after it has been saved and read."""
    return read(encoded(image, name, **options))


def colours(image: Image.Image) -> list[list[int]]:
    return np.asarray(image).reshape(-1, 3).tolist()


class TestColours:
    """Pixels of every format become 8-bit RGB on white."""

    @pytest.mark.parametrize("name", ["PNG", "TIFF"])
    def test_sixteen_bits_are_scaled_not_clipped(self, name: str):
        values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
        assert [r for r, _, _ in colours(seen(Image.fromarray(values), name))] == [0, 1, 128, 255]

    def test_sixteen_bits_with_a_transparent_level(self):
        values = np.array([[0, 30000, 65535]], dtype=np.uint16)
        image = seen(Image.fromarray(values), transparency=30000)
        assert [r for r, _, _ in colours(image)] == [0, 255, 255]

    def test_a_dark_image_of_sixteen_bits_stays_dark(self):
        assert colours(seen(Image.fromarray(np.array([[0, 1]], dtype=np.uint16)))) == [[0, 0, 0]] * 2

    def test_big_endian_sixteen_bits(self):
        image = Image.frombytes("I;16B", (2, 1), b"\x00\x00\x80\x80")
        assert colours(to_rgb(image)) == [[0] * 3, [128] * 3]

    def test_32_bit_integers_within_16_bits(self):
        image = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32))
        assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_32_bit_integers_beyond_16_bits_are_stretched(self):
        image = Image.fromarray(np.array([[-100_000, 0, 100_000]], dtype=np.int32))
        assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_floats_from_0_to_1_and_beyond(self):
        unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
        wide = Image.fromarray(np.array([[-50.0, np.nan, 50.0]], dtype=np.float32))
        for image in (unit, wide):
            assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_alpha_is_composited_on_white(self):
        image = Image.new("RGBA", (2, 1), (*RED, 255))
        image.putpixel((1, 0), (*RED, 0))
        assert colours(seen(image)) == [list(RED), list(WHITE)]

    def test_grey_with_alpha(self):
        image = Image.new("LA", (2, 1), (0, 255))
        image.putpixel((1, 0), (0, 128))
        assert colours(seen(image)) == [[0] * 3, [127] * 3]

    @pytest.mark.parametrize("name", ["PNG", "GIF"])
    def test_a_transparent_palette_entry(self, name: str):
        image = Image.new("P", (2, 1), 0)
        image.putpalette([*RED, *BLUE])
        image.putpixel((1, 0), 1)
        assert colours(seen(image, name, transparency=1)) == [list(RED), list(WHITE)]

    def test_a_transparent_colour(self):
        image = Image.new("RGB", (2, 1), RED)
        image.putpixel((1, 0), BLUE)
        assert colours(seen(image, transparency=BLUE)) == [list(RED), list(WHITE)]

    def test_one_bit(self):
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        assert colours(seen(image)) == [[0] * 3, [255] * 3]

    @pytest.mark.parametrize("name", ["TIFF", "JPEG"])
    def test_cmyk(self, name: str):
        red, green, blue = colours(seen(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), name))[0]
        assert red > 240
        assert max(green, blue) < 15

    @pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
    def test_the_first_frame_of_an_animation(self, name: str):
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
        options = {"save_all": True, "append_images": frames[1:], "duration": 100}
        red, _, blue = colours(seen(frames[0], name, **options))[0]
        assert red > 240
        assert blue < 15


class TestOrientation:
    """EXIF orientation is applied."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
    def test_all_orientations_in_all_formats(self, name: str, orientation: int):
        upright = Image.new("RGB", (32, 16), WHITE)
        upright.paste(RED, (0, 0, 16, 8))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored = stored_as(upright, orientation)
        image = seen(stored, name, exif=exif)
        assert image.size == (32, 16)
        for position, colour in {(4, 2): RED, (28, 2): WHITE, (4, 14): WHITE, (28, 14): WHITE}.items():
            assert np.abs(np.subtract(np.asarray(image)[position[::-1]], colour)).max() < 16


def stored_as(upright: Image.Image, orientation: int) -> Image.Image:
    """A scene as a camera of this orientation stores it."""
    first_row, first_column = SIDES[orientation]
    pixels = np.asarray(upright)
    if first_row in ("left", "right"):
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = (-1 if side in ("bottom", "right") else 1 for side in (first_row, first_column))
    return Image.fromarray(np.ascontiguousarray(pixels[::rows, ::columns]))


class TestReleased:
    """``pixels: released`` is Pillow's plain conversion."""

    def test_released_pixels_ignore_orientation_transparency_and_depth(self):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        images = {
            "turned": encoded(Image.new("RGB", (40, 20), RED), "JPEG", exif=exif),
            "clear": encoded(Image.new("RGBA", (2, 2), (*RED, 0))),
            "deep": encoded(Image.fromarray(np.full((2, 2), 30000, np.uint16))),
        }
        for name, content in images.items():
            with Image.open(io.BytesIO(content)) as image:
                expected = image.convert("RGB")
            assert read(content, Pixels.released) == expected, name
        assert read(images["turned"], Pixels.released).size == (40, 20)
        assert colours(read(images["clear"], Pixels.released))[0] == list(RED)
        assert colours(read(images["deep"], Pixels.released))[0] == [255] * 3

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
    def test_the_header_gives_the_size_for_every_orientation(self, name: str, orientation: int):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        read(encoded(Image.new("RGB", (32, 16)), name, exif=exif), Pixels.released)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


class TestHeaders:
    """The size is read without decoding and equals the decoded size."""

    def test_orientation_behind_the_pixels_of_a_png(self):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        content = encoded(Image.new("RGB", (32, 16)))
        end = content.rindex(b"IEND") - 4
        late = content[:end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[end:]
        assert read(late).size == (16, 32)
        assert read(late, Pixels.released).size == (32, 16)

    def test_orientation_in_xmp_only(self):
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
        image = Image.new("RGB", (32, 16))
        assert read(encoded(image, "JPEG", xmp=xmp)).size == (16, 32)
        assert read(encoded(image, "TIFF", tiffinfo={700: xmp})).size == (16, 32)
        read(encoded(image, "TIFF", tiffinfo={700: xmp}), Pixels.released)

    @pytest.mark.parametrize("name", ["PNG", "JPEG"])
    def test_the_size_needs_only_the_beginning_of_a_file(self, name: str):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8))
        assert image_size(io.BytesIO(encoded(noise, name)[:1000]), "a file", Pixels.displayed) == (300, 200)

    @pytest.mark.parametrize("name", LOCAL_FORMATS)
    def test_every_local_format_is_read(self, name: str):
        assert read(encoded(Image.new("RGB", (24, 18), RED), name)).size == (24, 18)

    def test_formats_that_run_other_programs_are_not_read(self):
        with pytest.raises(MediaError, match=r"a file: not an image of a known format \(PNG, "):
            image_size(io.BytesIO(encoded(Image.new("RGB", (4, 4)), "EPS")), "a file", Pixels.displayed)

    def test_a_decompression_bomb_is_refused_from_its_header(self):
        head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))
        with pytest.raises(MediaError, match=r"a file: .*pixels"):
            image_size(io.BytesIO(bomb), "a file", Pixels.displayed)


def test_an_image_is_usable_after_its_file_is_closed(tmp_path: Path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as stream:
        image = read_image(stream, "a.png", Pixels.displayed)
    assert colours(image)[0] == list(RED)
