"""Sizes come from headers, pixels from whole files; both tell damage apart from a defect of ours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from data.manifest.manifest import open_manifest
from data.pipeline.reading import read_samples
from data.records.record import BadSample
from data.sources.visuals import Clip, clip_header, decode_clip, decode_image, image_size
from lladav.inputs.types import Sample, VisualKind, VisualShape
from tests.data import build


def video(frames: int, rate: int) -> bytes:
    """An mp4 of frames of one colour each, ever brighter."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p"
        for number in range(frames):
            pixels = np.full((16, 32, 3), 20 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return stream.getvalue()


def clip_sample(content: bytes, name: str, root: Path, tokenizer: Path) -> Sample:
    """The sample of a record with this clip."""
    record = {
        "id": "r",
        "video": name,
        "conversations": build.turns("<video>\nWhat happens?", "It brightens."),
    }
    source = build.json_source(root, [record], {name: content})
    manifest = open_manifest(build.settings(root, tokenizer, {"source": source}))
    return next(read_samples(manifest, [0]))


@pytest.mark.parametrize("suffix", ["GIF", "WEBP"])
def test_an_animation_tells_frames_and_rate(suffix: str) -> None:
    header = clip_header(io.BytesIO(build.clip(6, 500, suffix)), "a clip")
    assert header == Clip(30, 20, 6, 2.0)


@pytest.mark.parametrize("suffix", ["GIF", "WEBP"])
def test_frames_of_an_animation_are_those_asked_for(suffix: str) -> None:
    frames = decode_clip(build.clip(6, 500, suffix), [0, 3, 5], "a clip")
    assert [frame.getpixel((5, 5)) for frame in frames] == [(0, 0, 0), (30, 30, 30), (50, 50, 50)]


def test_a_video_tells_frames_and_rate_and_gives_its_frames() -> None:
    content = video(8, rate=4)
    assert clip_header(io.BytesIO(content), "a video") == Clip(32, 16, 8, 4.0)
    frames = decode_clip(content, [0, 7], "a video")
    assert frames[0].size == (32, 16)
    assert np.asarray(frames[0]).mean() == pytest.approx(0, abs=6)
    assert np.asarray(frames[1]).mean() == pytest.approx(140, abs=6)


def test_a_clip_is_sampled_at_one_frame_a_second(tmp_path: Path, tokenizer: Path) -> None:
    sample = clip_sample(build.clip(6, 500), "a.gif", tmp_path, tokenizer)
    (visual,) = sample.visuals
    assert visual.shape == VisualShape(VisualKind.video, 30, 20, 3)
    assert [int(view[0, 5, 5]) for view in visual.views] == [0, 20, 40]


def test_a_long_clip_is_sampled_evenly_up_to_the_limit(tmp_path: Path, tokenizer: Path) -> None:
    sample = clip_sample(build.clip(10, 1000), "a.gif", tmp_path, tokenizer)
    assert [int(view[0, 5, 5]) for view in sample.visuals[0].views] == [0, 30, 60, 90]


def test_the_size_is_told_by_the_header_alone() -> None:
    content = build.picture(123, 45, suffix="JPEG")
    assert image_size(io.BytesIO(content[:700]), "a.jpg") == (123, 45)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_cut_short_is_a_bad_sample(suffix: str) -> None:
    content = build.picture(80, 60, suffix=suffix)
    with pytest.raises(BadSample, match=r"bad_image: a\.img: "):
        decode_image(content[: len(content) // 2], "a.img")


@pytest.mark.parametrize("content", [b"no image at all", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_a_bad_sample(content: bytes) -> None:
    with pytest.raises(BadSample, match="bad_image"):
        image_size(io.BytesIO(content), "a.img")


def test_a_damaged_video_is_a_bad_sample() -> None:
    content = video(8, rate=4)
    with pytest.raises(BadSample, match="bad_image"):
        clip_header(io.BytesIO(content[: len(content) // 2]), "a.mp4")
