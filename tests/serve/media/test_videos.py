"""Videos of requests: from data URIs, and from files in the directories that the operator lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lladav.inputs.clips import read_clip
from lladav.inputs.images import prepare_image
from lladav.inputs.samples import Visual, VisualKind
from serve.errors import ApiError
from serve.media.loader import MediaLoader, MediaReference
from serve.settings import FetchSettings, MediaSettings
from tests.lladav.inputs.recorded import HEIGHT, KINDS, WIDTH, video
from tests.serve.images import GEOMETRY, LEAKS, encoded, sample_image, uri
from tests.serve.loops import Run

PARAM = "messages[0].content[0].video_url.url"
FRAMES = 5
Load = Callable[..., list[Visual]]


@pytest.fixture(scope="module")
def load(run: Run) -> Load:
    """Loads the videos at these URLs with these settings."""

    def loaded(*urls: str, frames: int = FRAMES, **settings: Any) -> list[Visual]:
        loader = MediaLoader(MediaSettings(**settings), FetchSettings(), GEOMETRY)
        return run(loader.visuals([MediaReference(url, PARAM, is_video=True) for url in urls], frames))

    return loaded


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 60 frames in a directory of its own."""
    path = tmp_path_factory.mktemp("listed") / "a clip #1.mp4"
    path.write_bytes(video(KINDS["mp4 h264"]))
    return path


def error_of(load: Load, *urls: str, **settings: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        load(*urls, **settings)
    error = caught.value
    assert error.param == PARAM
    assert error.message.startswith(PARAM)
    assert not any(leak in error.message for leak in (*LEAKS, "/tmp"))
    return error


def assert_equal(found: Visual, expected: Visual) -> None:
    assert found.shape == expected.shape
    assert np.array_equal(found.views, expected.views)


class TestReading:
    """Frames are those of ``read_clip``, which samples for evaluation."""

    @pytest.mark.parametrize("frames", [1, FRAMES, 100])
    def test_a_data_uri(self, load: Load, clip: Path, frames: int):
        (found,) = load(uri(clip.read_bytes(), "video/mp4"), frames=frames)
        assert_equal(found, read_clip(clip, frames, GEOMETRY))
        assert found.shape.views == min(frames, 60)

    @pytest.mark.parametrize("scheme", ["file://", "FILE://localhost"])
    def test_a_file_in_a_listed_directory(self, load: Load, clip: Path, scheme: str):
        (found,) = load(f"{scheme}{clip}", directories=["/nowhere", str(clip.parent)])
        assert_equal(found, read_clip(clip, FRAMES, GEOMETRY))

    def test_an_escaped_path(self, load: Load, clip: Path):
        (found,) = load(clip.as_uri(), directories=[str(clip.parent)])
        assert found.shape.views == FRAMES

    def test_an_animation(self, load: Load):
        shown = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
        content = encoded(shown[0], "GIF", save_all=True, append_images=shown[1:])
        (found,) = load(uri(content, "image/gif"))
        assert (found.shape.kind, found.shape.views) == (VisualKind.video, 3)

    def test_an_image_beside_a_video_is_tiled(self, run: Run, clip: Path):
        image = sample_image(40, 20)
        references = [MediaReference(uri(encoded(image)), "a"), MediaReference(clip.as_uri(), "b", True)]
        loader = MediaLoader(MediaSettings(directories=[str(clip.parent)]), FetchSettings(), GEOMETRY)
        first, second = run(loader.visuals(references, FRAMES))
        assert_equal(first, prepare_image(image, VisualKind.tiled, GEOMETRY))
        assert second.shape.kind is VisualKind.video


class TestRefusals:
    """Each limit and each mistake has its own status and code."""

    def test_files_are_off_by_default(self, load: Load, clip: Path):
        assert error_of(load, clip.as_uri()).code == "files_disabled"

    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd",
            "file://{listed}/../{outside}",
            "file://{listed}/%2e%2e/{outside}",
            "file://{listed}/link-out.mp4",
            "file://{listed}/folder-out/outside.mp4",
            "file://{listed}/none.mp4",
            "file://{listed}",
            "file://{listed}/pipe",
            "file://{listed}-twin/outside.mp4",
            "file://{listed}/a%00b",
            "file://other.example{listed}/inside.mp4",
            "file://",
            "file:///proc/self/environ",
        ],
    )
    def test_files_elsewhere(self, load: Load, clip: Path, tmp_path: Path, url: str):
        listed, twin = tmp_path / "listed", tmp_path / "listed-twin"
        listed.mkdir()
        twin.mkdir()
        (outside := twin / "outside.mp4").write_bytes(clip.read_bytes())
        (listed / "link-out.mp4").symlink_to(outside)
        (listed / "folder-out").symlink_to(twin)
        os.mkfifo(listed / "pipe")
        given = url.format(listed=listed, outside="listed-twin/outside.mp4")
        assert error_of(load, given, directories=[str(listed)]).code == "file_refused"

    def test_a_link_within_a_listed_directory_is_followed(self, load: Load, clip: Path, tmp_path: Path):
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "1").write_bytes(clip.read_bytes())
        (tmp_path / "clip.mp4").symlink_to("blobs/1")
        assert load(f"file://{tmp_path}/clip.mp4", directories=[str(tmp_path)])

    def test_too_many_bytes_are_refused_before_base64_is_decoded(self, load: Load):
        error = error_of(load, "data:video/mp4;base64," + "!" * 1004, video_bytes=750)
        assert (error.status, error.code) == (413, "video_too_large")

    def test_the_pixels_of_a_frame_are_limited(self, load: Load, clip: Path):
        content = uri(clip.read_bytes(), "video/mp4")
        error = error_of(load, content, pixels=WIDTH * HEIGHT - 1)
        assert (error.status, error.code) == (413, "video_too_large")
        assert load(content, pixels=WIDTH * HEIGHT)

    @pytest.mark.parametrize(
        "url",
        [
            "https://videos.example/a.mp4",
            "data:video/mp4,secret",
            "data:text/html;base64,AAAA",
            uri(b"secret, and no video", "video/mp4"),
            uri(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/secret\n", "video/mp4"),
            "data:video/mp4;base64,A A=",
        ],
    )
    def test_not_a_video(self, load: Load, url: str):
        error = error_of(load, url)
        assert (error.status, error.code) == (400, "invalid_video")

    def test_a_truncated_video(self, load: Load, clip: Path):
        content = clip.read_bytes()
        assert error_of(load, uri(content[: len(content) // 2], "video/mp4")).code == "invalid_video"

    def test_a_video_that_takes_too_long(self, load: Load, clip: Path):
        error = error_of(load, clip.as_uri(), directories=[str(clip.parent)], video_seconds=0.0001)
        assert (error.status, error.code) == (400, "video_timeout")
