"""Pixels of every format as RGB of 8 bits, upright, and files damaged in every way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from lladav.samples import Visual
from serve.media.loading import FORMATS, to_rgb
from tests.serve.pictures import (
    decoded,
    encoded,
    picture,
    refused,
)

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


def seen(image: Image.Image, name: str = "PNG", **options: Any) -> Image.Image:
    """An image after it has been saved and read."""
    with Image.open(io.BytesIO(encoded(image, name, **options))) as opened:
        return to_rgb(opened)


def colours(image: Image.Image) -> list[list[int]]:
    return np.asarray(image).reshape(-1, 3).tolist()


class TestColours:
    """Whatever the file's pixels are, RGB of 8 bits on white comes out."""

    @pytest.mark.parametrize("name", ["PNG", "TIFF"])
    def test_sixteen_bits_are_scaled_not_clipped(self, name: str):
        values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
        assert [r for r, _, _ in colours(seen(Image.fromarray(values), name))] == [0, 1, 128, 255]

    def test_a_dark_image_of_sixteen_bits_stays_dark(self):
        assert colours(seen(Image.fromarray(np.array([[0, 1]], dtype=np.uint16)))) == [[0, 0, 0]] * 2

    def test_big_endian_sixteen_bits(self):
        image = Image.frombytes("I;16B", (2, 1), b"\x00\x00\x80\x80")
        assert colours(to_rgb(image)) == [[0] * 3, [128] * 3]

    def test_integers_of_the_range_of_sixteen_bits(self):
        image = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32))
        assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_integers_beyond_it_are_stretched(self):
        image = Image.fromarray(np.array([[-100_000, 0, 100_000]], dtype=np.int32))
        assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_floats_from_0_to_1_and_beyond(self):
        unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
        wide = Image.fromarray(np.array([[-50.0, np.nan, 50.0]], dtype=np.float32))
        for image in (unit, wide):
            assert [r for r, _, _ in colours(seen(image, "TIFF"))] == [0, 128, 255]

    def test_alpha_shows_white(self):
        image = Image.new("RGBA", (2, 1), (*RED, 255))
        image.putpixel((1, 0), (*RED, 0))
        assert colours(seen(image)) == [list(RED), list(WHITE)]

    def test_grey_with_alpha(self):
        image = Image.new("LA", (2, 1), (0, 255))
        image.putpixel((1, 0), (0, 128))
        assert colours(seen(image)) == [[0] * 3, [127] * 3]

    @pytest.mark.parametrize("name", ["PNG", "GIF"])
    def test_a_transparent_place_of_a_palette(self, name: str):
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
    """EXIF turns images upright."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF"])
    def test_all_orientations_in_all_formats(self, name: str, orientation: int):
        upright = Image.new("RGB", (32, 16), WHITE)
        upright.paste(RED, (0, 0, 16, 8))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored = stored_as(upright, orientation)
        image = seen(stored, name, exif=exif)
        assert image.size == (32, 16)
        for place, colour in {(4, 2): RED, (28, 2): WHITE, (4, 14): WHITE, (28, 14): WHITE}.items():
            assert np.abs(np.subtract(np.asarray(image)[place[::-1]], colour)).max() < 16

    def test_sizes_are_those_of_the_upright_image(self):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        visual = decoded(encoded(picture(40, 20), exif=exif))
        assert isinstance(visual, Visual)
        assert (visual.width, visual.height) == (20, 40)

    @pytest.mark.parametrize("exif", [b"Exif\x00\x00nonsense", b"", b"MM\x00*" + b"\xff" * 40])
    def test_damaged_exif_does_not_spoil_an_image(self, exif: bytes):
        image = Image.new("RGB", (4, 2), RED)
        assert isinstance(decoded(encoded(image, exif=exif)), Visual)


def stored_as(upright: Image.Image, orientation: int) -> Image.Image:
    """A scene as a camera of this orientation stores it."""
    first_row, first_column = SIDES[orientation]
    pixels = np.asarray(upright)
    if first_row in ("left", "right"):
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = (-1 if side in ("bottom", "right") else 1 for side in (first_row, first_column))
    return Image.fromarray(np.ascontiguousarray(pixels[::rows, ::columns]))


FILES = {name: encoded(picture(), name) for name in FORMATS}
FILES["GIF"] = encoded(picture(), "GIF", save_all=True, append_images=[picture(24, 18).rotate(90)])
FILES["progressive"] = encoded(picture(), "JPEG", progressive=True, exif=b"Exif\x00\x00MM\x00*\x00\x00")
FILES["lzw"] = encoded(picture(), "TIFF", compression="tiff_lzw")
FILES["lossless"] = encoded(picture(), "WEBP", lossless=True)


class TestDamage:
    """No file makes the decoder raise anything but ``ApiError``."""

    @settings(deadline=5000)
    @given(st.binary(max_size=300))
    def test_random_bytes(self, content: bytes):
        assert refused(content).code == "invalid_image"

    @settings(deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.binary(max_size=100))
    def test_random_bytes_behind_a_true_start(self, name: str, tail: bytes):
        decoded(FILES[name][:32] + tail)

    @settings(max_examples=200, deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.data())
    def test_flipped_bits(self, name: str, data: st.DataObject):
        content = bytearray(FILES[name])
        anywhere = st.integers(0, len(content) - 1)
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(anywhere | st.integers(0, 60))
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        decoded(bytes(content))

    @settings(max_examples=200, deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.data())
    def test_files_cut_off_anywhere(self, name: str, data: st.DataObject):
        decoded(FILES[name][: data.draw(st.integers(0, len(FILES[name]) - 1))])
