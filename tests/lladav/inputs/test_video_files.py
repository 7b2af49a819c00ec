"""Frames by index equal those of decoding the whole file, and only needed frames are decoded."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import av
import pytest
from PIL import Image

from lladav.config.schema import Pixels
from lladav.errors import MediaError, UserError
from lladav.inputs.clips import clip_frames, clip_header
from lladav.inputs.images import sample_frames
from lladav.inputs.video_files import VideoFile
from tests.apart import apart
from tests.lladav.inputs import recorded

FRAMES = 60
NO_TIMESTAMPS = ("avi h264", "raw h264")
"""Kinds whose timestamps do not give the order, so that they are decoded from their start."""
SEEKABLE = sorted(set(recorded.KINDS) - {*NO_TIMESTAMPS, "mpeg mpeg2"})


@cache
def content_of(kind: str) -> bytes:
    return recorded.video(recorded.KINDS[kind], FRAMES)


def numbers(content: bytes, wanted: list[int]) -> list[int]:
    """The numbers that the frames with these indices were drawn with."""
    frames = clip_frames(io.BytesIO(content), lambda _: wanted, "a video", Pixels.displayed)
    return [recorded.number_of(frame) for frame in frames]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects an element for each frame that a decoder returned: how it was requested."""
    seen: list[str] = []

    def watch(name: str) -> None:
        method = getattr(VideoFile, name)

        def watched(self: VideoFile, *given: Any) -> Iterator[Any]:
            for frame in method(self, *given):
                seen.append(name)
                yield frame

        monkeypatch.setattr(VideoFile, name, watched)

    watch("_frames_from")
    watch("_counted")
    return seen


@pytest.mark.parametrize("kind", recorded.KINDS)
def test_frames_equal_those_of_decoding_the_whole_file(kind: str) -> None:
    content, draw = content_of(kind), Random(kind)
    reference = recorded.everything(content)
    clip = clip_header(io.BytesIO(content), "a video")
    assert (clip.width, clip.height, clip.frames) == (recorded.WIDTH, recorded.HEIGHT, FRAMES)
    assert clip.frames == len(reference)
    assert [recorded.number_of(frame) for frame in reference] == list(range(FRAMES))
    for count in (1, 1, 2, 5, FRAMES):
        wanted = sorted(draw.choices(range(FRAMES), k=count))
        frames = clip_frames(io.BytesIO(content), lambda _, w=wanted: w, "a video", Pixels.displayed)
        for index, frame in zip(wanted, frames, strict=True):
            assert frame == reference[index], (wanted, index)


@pytest.mark.parametrize("kind", recorded.KINDS)
def test_sampling_one_frame_per_second_in_every_container(kind: str) -> None:
    clip = clip_header(io.BytesIO(content_of(kind)), "a video")
    assert clip.rate == pytest.approx(25, abs=0.5)
    wanted = sample_frames(clip.frames, clip.rate, 1.0, 32)
    assert wanted == [0, 25, 50]
    assert numbers(content_of(kind), wanted) == wanted


@pytest.mark.parametrize("kind", SEEKABLE)
def test_only_needed_frames_are_decoded(kind: str, decoded: list[str]) -> None:
    assert numbers(content_of(kind), [FRAMES - 2]) == [FRAMES - 2]
    assert set(decoded) == {"_frames_from"}
    assert len(decoded) <= 2 * recorded.GOP


@pytest.mark.parametrize("kind", NO_TIMESTAMPS)
def test_a_file_without_timestamps_is_decoded_from_its_start(kind: str, decoded: list[str]) -> None:
    assert numbers(content_of(kind), [3, FRAMES - 2]) == [3, FRAMES - 2]
    assert set(decoded) == {"_counted"}


def test_frames_before_the_start_of_an_edit_list_do_not_count() -> None:
    cut = recorded.repacked(content_of("mp4 h264"), "mp4", shift=25 * 512)
    reference = recorded.everything(cut)
    assert 0 < len(reference) < FRAMES
    assert clip_header(io.BytesIO(cut), "a video").frames == len(reference)
    first, last = recorded.number_of(reference[0]), recorded.number_of(reference[-1])
    assert numbers(cut, [0, len(reference) - 1]) == [first, last]


@pytest.mark.parametrize("container", ["matroska", "mpegts"])
@pytest.mark.parametrize("kind", ["mp4 hevc, open gop", "mpegts mpeg2"])
def test_frames_that_need_one_before_the_first_keyframe_do_not_count(kind: str, container: str) -> None:
    content = recorded.repacked(content_of(kind), container, first=2)
    reference = recorded.everything(content)
    assert 0 < len(reference) < FRAMES - 2
    assert clip_header(io.BytesIO(content), "a video").frames == len(reference)
    wanted = [0, 1, 9, len(reference) - 1]
    assert numbers(content, wanted) == [recorded.number_of(reference[index]) for index in wanted]


def test_packets_without_a_frame_do_not_count() -> None:
    content = recorded.repacked(content_of("webm vp8"), "webm", hide=35)
    reference = recorded.everything(content)
    assert len(reference) == FRAMES - 1
    assert clip_header(io.BytesIO(content), "a video").frames == FRAMES - 1
    assert numbers(content, [34, 35, 58]) == [34, 36, 59]


def test_the_rotation_in_a_file_is_applied() -> None:
    content = recorded.video(recorded.KINDS["mp4 h264"], 10, rotation=90)
    (turned,) = clip_frames(io.BytesIO(content), lambda _: [7], "a video", Pixels.displayed)
    stored = recorded.everything(content)[7]
    assert turned == stored.transpose(Image.Transpose.ROTATE_90)


CUT = sorted(set(recorded.KINDS) - {"mpegts h264", "mpegts mpeg2", "mpeg mpeg2", "raw h264"})
"""Kinds whose files contain their length, so that a missing end is detected."""


@pytest.mark.parametrize("kept", [0.5, 0.85])
@pytest.mark.parametrize("kind", CUT)
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    content = content_of(kind)
    with pytest.raises(MediaError, match=r"^a video: "):
        numbers(content[: int(kept * len(content))], [0])


def test_a_truncated_file_is_refused_from_its_header(tmp_path: Path) -> None:
    file = tmp_path / "header_first.mp4"
    with (
        av.open(io.BytesIO(content_of("mp4 h264")), "r") as source,
        av.open(str(file), "w", options={"movflags": "faststart"}) as target,
    ):
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    content = file.read_bytes()
    assert clip_header(io.BytesIO(content), "a video").frames == FRAMES
    with pytest.raises(MediaError, match="a video: it is cut short"):
        clip_header(io.BytesIO(content[: int(0.9 * len(content))]), "a video")


@pytest.mark.parametrize("kind", recorded.KINDS)
def test_damaged_files_raise_only_media_errors(kind: str) -> None:
    draw = Random(kind)
    for _ in range(12):
        content = bytearray(content_of(kind))
        for position in draw.sample(range(len(content)), 20):
            content[position] = draw.randrange(256)
        with suppress(MediaError):
            assert len(numbers(bytes(content), [5, 50])) == 2


def test_a_corrupt_frame_is_refused() -> None:
    content = bytearray(content_of("mp4 mpeg4"))
    start, end = len(content) // 3, len(content) // 2
    content[start:end] = bytes(end - start)
    with pytest.raises(MediaError, match=r"^a video: "):
        numbers(bytes(content), list(range(FRAMES)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"\0\0\0\x18ftypmp42" + bytes(100),
    ],
)
def test_content_that_is_not_a_video_is_refused(content: bytes) -> None:
    with pytest.raises(MediaError, match=r"^a video: ") as error:
        clip_header(io.BytesIO(content), "a video")
    assert "\n" not in str(error.value)


def error_without_av() -> tuple[str, bool]:
    """The message, and whether it is a ``MediaError``. Hides the package for good: run it ``apart``."""
    sys.modules.update({"av": None})  # type: ignore[dict-item] - as the import system documents it
    with pytest.raises(UserError) as error:
        clip_header(io.BytesIO(b"\0\0\0\x18ftypmp42" + bytes(100)), "clip.mp4")
    return str(error.value), isinstance(error.value, MediaError)


def test_a_missing_video_package_is_named() -> None:
    message, of_the_video = apart(error_without_av)
    assert "reading videos needs the package av; run pip install av" in message
    assert not of_the_video
