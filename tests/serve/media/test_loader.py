"""Loading the images of requests, and the error of each limit and mistake."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lladav.inputs.image_files import FORMATS
from lladav.inputs.images import prepare_image
from lladav.inputs.samples import Visual, VisualKind
from serve.errors import ApiError
from serve.media.fetching import Fetcher
from serve.media.loader import MediaLoader, MediaReference
from serve.settings import FetchSettings, MediaSettings
from tests.apart import apart
from tests.serve.images import (
    GEOMETRY,
    PARAM,
    PIXELS,
    checked,
    chunk,
    decoded,
    encoded,
    named,
    png,
    refused,
    sample_image,
    uri,
)
from tests.serve.loops import Run

FRAMES = 4
"""Most frames of a video."""
Load = Callable[..., list[Visual]]
LoadError = Callable[..., ApiError]


def loader(*, hosts: Sequence[str] = (), fetcher: Fetcher | None = None, **limits: Any) -> MediaLoader:
    return MediaLoader(MediaSettings(**limits), FetchSettings(hosts=list(hosts)), GEOMETRY, fetcher=fetcher)


@pytest.fixture(scope="module")
def load(run: Run) -> Load:
    """Loads the visuals of a request with these URLs and limits."""
    return lambda *urls, **options: run(loader(**options).visuals(named(*urls), FRAMES))


@pytest.fixture(scope="module")
def load_error(load: Load) -> LoadError:
    """Loads a request and returns its error, checked to leak nothing."""

    def failing(*urls: str, **options: Any) -> ApiError:
        with pytest.raises(ApiError) as caught:
            load(*urls, **options)
        return checked(caught.value)

    return failing


class TestReading:
    """A request's images become what training saw."""

    def test_one_image_is_tiled(self, load: Load):
        image = sample_image(40, 20)
        (visual,) = load(uri(encoded(image)))
        expected = prepare_image(image, VisualKind.tiled, GEOMETRY)
        assert visual.shape == expected.shape
        assert np.array_equal(visual.views, expected.views)

    def test_several_images_are_padded_and_keep_their_order(self, load: Load):
        images = [sample_image(40, 20), sample_image(8, 30)]
        visuals = load(*(uri(encoded(image)) for image in images))
        for visual, image in zip(visuals, images, strict=True):
            expected = prepare_image(image, VisualKind.padded, GEOMETRY)
            assert visual.shape.kind is VisualKind.padded
            assert np.array_equal(visual.views, expected.views)

    def test_the_same_image_twice_is_decoded_once(self, load: Load):
        first, second = load(*[uri(encoded(sample_image()))] * 2)
        assert first is second

    def test_no_images_give_no_visuals(self, load: Load):
        assert load() == []

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_is_decoded_whatever_its_declared_type(self, name: str):
        visual = decoded(encoded(sample_image(), name))
        assert isinstance(visual, Visual)
        assert (visual.shape.width, visual.shape.height) == (24, 18)

    @pytest.mark.parametrize(
        "head", ["data:image/png;base64", "DATA:Image/PNG;BASE64", "data:image/jpeg;name=a.jpg;base64"]
    )
    def test_prefixes_of_data_uris_follow_the_standard(self, load: Load, head: str):
        assert load(f"{head},{base64.b64encode(encoded(sample_image())).decode()}")

    @pytest.mark.parametrize("end", ["\n", "\r\n", " \t"])
    def test_base64_may_have_line_breaks(self, load: Load, end: str):
        content = encoded(sample_image())
        lines = base64.encodebytes(content).decode().replace("\n", end)
        (visual,), (same,) = (
            load(f"data:image/png;base64,{lines}", image_bytes=len(content)),
            load(uri(content)),
        )
        assert np.array_equal(visual.views, same.views)


NO_IMAGES = [
    "",
    "cat.png",
    "file:///etc/secret",
    "ftp://a.example/cat.png",
    "data:",
    "data:image/png;base64,",
    "data:image/png,secret",
    "data:;base64,AAAA",
    "data:text/html;base64,AAAA",
    "data:image/svg+xml;base64,AAAA",
    "data:image/png;base64,AAA",
    "data:image/png;base64,A A=",
    "data:image/png;base64,\u00e4\u00e4\u00e4\u00e4",
    uri(b"secret, and no image"),
    uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
]


class TestRefusals:
    """Each limit and each mistake has its own status and code."""

    def test_too_many_bytes_are_refused_before_base64_is_decoded(self, load_error: LoadError):
        error = load_error("data:image/png;base64," + "!" * 1004, image_bytes=750)
        assert (error.status, error.code) == (413, "image_too_large")

    @pytest.mark.parametrize("padding", range(3))
    def test_the_byte_limit_is_exact(self, load: Load, load_error: LoadError, padding: int):
        text = chunk(b"tEXt", b"a\x00" + bytes(padding + 1))
        content = png(1, 1, text, chunk(b"IDAT", zlib.compress(b"\x00\x00")))
        assert load(uri(content), image_bytes=len(content))
        assert load_error(uri(content), image_bytes=len(content) - 1).status == 413

    def test_sizes_of_all_images_are_checked_before_the_first_is_decoded(self, load_error: LoadError):
        error = load_error(uri(b"no image"), "data:image/png;base64," + "A" * 1004, image_bytes=750)
        assert error.param == named("a", "b")[1].param

    @pytest.mark.parametrize("url", NO_IMAGES)
    def test_not_an_image(self, load_error: LoadError, url: str):
        error = load_error(url)
        assert (error.status, error.code) == (400, "invalid_image")
        assert error.message.startswith(PARAM)

    @pytest.mark.parametrize("name", ["ICO", "PPM", "TGA", "PCX", "JPEG2000", "EPS", "PDF"])
    def test_formats_outside_the_list(self, name: str):
        assert refused(encoded(sample_image(), name)).code == "invalid_image"

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_truncated_file(self, name: str):
        content = encoded(sample_image(), name)
        error = refused(content[: len(content) // 2])
        assert (error.status, error.code) == (400, "invalid_image")

    def test_an_image_that_takes_too_long(self, load_error: LoadError):
        error = load_error(uri(encoded(Image.new("L", (6000, 6000)))), seconds=0.001)
        assert (error.status, error.code, error.param) == (400, "image_timeout", PARAM)

    @pytest.mark.parametrize("scheme", ["http", "https", "HTTPS"])
    def test_urls_without_fetching(self, load_error: LoadError, scheme: str):
        error = load_error(f"{scheme}://images.example/cat.png?token=secret")
        assert (error.status, error.code) == (400, "fetch_disabled")
        assert "data URI" in error.message

    def test_urls_go_to_the_fetcher_if_fetching_is_on(self, load_error: LoadError):
        error = load_error("https://elsewhere.example/cat.png?token=secret", hosts=["images.example"])
        assert (error.status, error.code) == (400, "fetch_refused")

    def test_a_fetched_image_is_decoded_like_any_other(self, load: Load):
        class Found(Fetcher):
            async def fetch(self, url: str, param: str) -> bytes:
                assert (url, param) == ("https://images.example/cat.png", PARAM)
                return encoded(sample_image(40, 20))

        fetcher = Found(FetchSettings(), 1)
        (visual,) = load("https://images.example/cat.png", fetcher=fetcher)
        assert (visual.shape.width, visual.shape.height) == (40, 20)

    @settings(max_examples=200, deadline=5000)
    @given(st.text(max_size=40), st.text(max_size=40))
    def test_urls_of_any_text(self, head: str, tail: str):
        async def visuals() -> None:
            await loader(image_bytes=1).visuals([MediaReference(f"{head},{tail}", PARAM)], FRAMES)

        with pytest.raises(ApiError):
            asyncio.run(visuals())


def decoded_below_a_limit(content: bytes, limit: int) -> tuple[object, int | None]:
    """The image, and Pillow's limit afterwards. Sets that limit: call it with ``apart``."""
    Image.MAX_IMAGE_PIXELS = limit
    return decoded(content), Image.MAX_IMAGE_PIXELS


class TestBombs:
    """Images are refused by the size in their header, before memory is allocated."""

    def test_a_header_of_50000_squared(self, load_error: LoadError):
        error = load_error(uri(png(50_000, 50_000, chunk(b"IDAT", zlib.compress(bytes(1000))))))
        assert (error.status, error.code) == (413, "image_too_large")

    @pytest.mark.parametrize("size", [(100, 100), (101, 100)])
    def test_the_pixel_limit_is_exact(self, size: tuple[int, int]):
        found = decoded(encoded(Image.new("L", size)), pixels=10_000)
        assert isinstance(found, Visual) is (size == (100, 100))

    def test_pillows_own_limit_does_not_matter(self):
        found, limit = apart(decoded_below_a_limit, encoded(Image.new("L", (100, 100))), 10)
        assert isinstance(found, Visual)
        assert limit == 10

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_is_refused_by_the_size_in_its_header(self, name: str):
        assert refused(encoded(Image.new("RGB", (64, 64)), name), pixels=64 * 64 - 1).status == 413

    def test_a_gif_frame_larger_than_its_screen(self):
        content = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
        frame = content.index(b"\x2c\x00\x00\x00\x00\x08\x00\x08\x00")
        content[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
        assert refused(bytes(content)).status in (400, 413)

    @pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
    def test_compressed_text_chunks(self, name: bytes):
        compressed_prefix = b"a\x00" + b"\x00" * (name != b"iTXt") + b"\x01\x00\x00\x00" * (name == b"iTXt")
        body = compressed_prefix + zlib.compress(bytes(50_000_000))
        content = png(1, 1, chunk(name, body), chunk(b"IDAT", zlib.compress(b"\x00\x00")))
        started = time.process_time()
        decoded(content)
        assert time.process_time() - started < 2

    @pytest.mark.parametrize("size", [(PIXELS, 1), (1, PIXELS)])
    @pytest.mark.parametrize("kind", [VisualKind.tiled, VisualKind.padded])
    def test_a_strip_is_read(self, kind: VisualKind, size: tuple[int, int]):
        found = decoded(encoded(Image.new("L", size)), kind)
        assert isinstance(found, Visual)
