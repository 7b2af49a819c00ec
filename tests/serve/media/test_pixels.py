"""Decoding in the server: metadata, and damaged files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from lladav.inputs.image_files import FORMATS
from lladav.inputs.samples import Visual
from tests.serve.images import (
    decoded,
    encoded,
    refused,
    sample_image,
)


class TestMetadata:
    """EXIF orientation is applied; damaged EXIF data is ignored."""

    def test_sizes_are_those_of_the_upright_image(self):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        visual = decoded(encoded(sample_image(40, 20), exif=exif))
        assert isinstance(visual, Visual)
        assert (visual.shape.width, visual.shape.height) == (20, 40)

    @pytest.mark.parametrize("exif", [b"Exif\x00\x00nonsense", b"", b"MM\x00*" + b"\xff" * 40])
    def test_damaged_exif_is_ignored(self, exif: bytes):
        image = Image.new("RGB", (4, 2), (255, 0, 0))
        assert isinstance(decoded(encoded(image, exif=exif)), Visual)


FILES = {name: encoded(sample_image(), name) for name in FORMATS}
FILES["GIF"] = encoded(sample_image(), "GIF", save_all=True, append_images=[sample_image(24, 18).rotate(90)])
FILES["progressive"] = encoded(sample_image(), "JPEG", progressive=True, exif=b"Exif\x00\x00MM\x00*\x00\x00")
FILES["lzw"] = encoded(sample_image(), "TIFF", compression="tiff_lzw")
FILES["lossless"] = encoded(sample_image(), "WEBP", lossless=True)


class TestDamage:
    """Whatever the file, the decoder raises only ``ApiError``."""

    @settings(deadline=5000)
    @given(st.binary(max_size=300))
    def test_random_bytes(self, content: bytes):
        assert refused(content).code == "invalid_image"

    @settings(deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.binary(max_size=100))
    def test_random_bytes_after_a_valid_start(self, name: str, tail: bytes):
        decoded(FILES[name][:32] + tail)

    @settings(max_examples=200, deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.data())
    def test_flipped_bits(self, name: str, data: st.DataObject):
        content = bytearray(FILES[name])
        anywhere = st.integers(0, len(content) - 1)
        for _ in range(data.draw(st.integers(1, 8))):
            index = data.draw(anywhere | st.integers(0, 60))
            content[index] ^= 1 << data.draw(st.integers(0, 7))
        decoded(bytes(content))

    @settings(max_examples=200, deadline=5000)
    @given(st.sampled_from(sorted(FILES)), st.data())
    def test_files_truncated_anywhere(self, name: str, data: st.DataObject):
        decoded(FILES[name][: data.draw(st.integers(0, len(FILES[name]) - 1))])
