"""Clips of every form: animations, still images, folders of frames, videos."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from lladav.config.schema import Pixels
from lladav.errors import MediaError
from lladav.inputs.clips import clip_frames, clip_header, read_clip
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import Visual, VisualKind
from lladav.inputs.video_files import Clip
from tests.lladav.inputs import recorded

GEOMETRY = ViewGeometry(16, 4, 3, 6, 2, True)


def animation(frames: int, name: str = "GIF", milliseconds: int = 500) -> bytes:
    """An animation whose frames become brighter."""
    first, *rest = [Image.new("RGB", (30, 20), (10 * number,) * 3) for number in range(frames)]
    stream = io.BytesIO()
    first.save(stream, name, save_all=True, append_images=rest, duration=milliseconds, lossless=True)
    return stream.getvalue()


def levels(visual: Visual) -> list[int]:
    """The brightness of each view."""
    return [int(view[0, 8, 8]) for view in visual.views]


def write_folder(folder: Path, frames: int) -> Path:
    """Frames that become brighter in the order of their names, written in another order."""
    folder.mkdir()
    for number in reversed(range(frames)):
        Image.new("RGB", (30, 20), (10 * number,) * 3).save(folder / f"{number:03d}.png")
    (folder / ".hidden").write_bytes(b"no image")
    (folder / "more").mkdir()
    return folder


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
def test_header_and_frames_of_an_animation(name: str) -> None:
    content = animation(6, name)
    assert clip_header(io.BytesIO(content), "a clip") == Clip(30, 20, 6, 2.0)
    frames = list(clip_frames(io.BytesIO(content), lambda _: [0, 3, 3, 5], "a clip", Pixels.displayed))
    assert [frame.getpixel((5, 5))[0] for frame in frames] == [0, 30, 30, 50]  # pyright: ignore


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_still_image_is_a_clip_of_one_frame(name: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(stream, name)
    assert clip_header(stream, "a clip") == Clip(30, 20, 1, 10.0)


def test_a_transparent_animation_is_composited_on_white() -> None:
    frames = [Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (255, 0)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    shown = clip_frames(stream, lambda _: [0, 1], "a clip", Pixels.displayed)
    assert [frame.getpixel((4, 4)) for frame in shown] == [(255, 0, 0), (255, 255, 255)]


def test_inference_spreads_its_frames_over_the_whole_clip(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(animation(20))
    visual = read_clip(tmp_path / "a.gif", 4, GEOMETRY)
    assert (visual.shape.kind, visual.shape.width, visual.shape.height) == (VisualKind.video, 30, 20)
    assert levels(visual) == [0, 60, 120, 190]
    assert levels(read_clip(tmp_path / "a.gif", 32, GEOMETRY)) == list(range(0, 200, 10))


def test_inference_reads_a_video_file(tmp_path: Path) -> None:
    (tmp_path / "a.webm").write_bytes(recorded.video(recorded.KINDS["webm vp9"], 30))
    assert len(read_clip(tmp_path / "a.webm", 8, GEOMETRY).views) == 8


def test_a_folder_of_frames_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clip", 12)
    assert levels(read_clip(folder, 4, GEOMETRY)) == [0, 30, 70, 110]


def test_a_damaged_frame_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clip", 3)
    (folder / "001.png").write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"^frame 1 of .*clip: not an image"):
        read_clip(folder, 3, GEOMETRY)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="the folder has no frames"):
        read_clip(write_folder(tmp_path / "clip", 0), 3, GEOMETRY)


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_a_truncated_animation_is_refused(name: str) -> None:
    content = animation(6, name)
    with pytest.raises(MediaError, match=r"^a clip: "):
        clip_header(io.BytesIO(content[: len(content) * 2 // 3]), "a clip")
