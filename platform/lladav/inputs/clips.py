"""Frames of a clip, whatever it is kept as.

A clip is a video file, an animated GIF, WebP or PNG, or a folder of frames. A file that is a still image is a
clip of one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageSequence

from lladav.config.schema import Pixels
from lladav.errors import MediaError
from lladav.inputs.image_files import LOCAL_FORMATS, damage_of, read_image, to_rgb
from lladav.inputs.images import ViewGeometry, inference_frames, prepare_video
from lladav.inputs.types import Visual
from lladav.inputs.video_files import Clip, VideoFile

DEFAULT_MILLISECONDS = 100
"""How long players show a frame of an animation without a duration."""
IMAGE_STARTS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff")

Choose = Callable[[Clip], Sequence[int]]
"""The indices of the frames to take of a clip, ascending."""
Opener = Callable[[], BinaryIO]


def clip_header(stream: BinaryIO, name: str) -> Clip:
    """What a clip in a file consists of; raises ``MediaError`` where it cannot be read.

    Of an animation and of a video whose header does not tell the number of frames, the whole file is read.
    """
    with damage_of(name):
        if _is_image(stream):
            return _animation_header(stream)
        with closing(VideoFile(stream)) as video:
            return video.clip()


def clip_frames(stream: BinaryIO, choose: Choose, name: str, pixels: Pixels) -> Iterator[Image.Image]:
    """The chosen frames of a clip in RGB, one at a time; raises ``MediaError`` where one is damaged."""
    with damage_of(name):
        if _is_image(stream):
            wanted = choose(_animation_header(stream))
            stream.seek(0)
            yield from _animation_frames(stream, wanted, pixels)
            return
        with closing(VideoFile(stream)) as video:
            yield from video.frames(choose(video.clip(is_counted=True)))


def folder_frames(
    files: Sequence[Opener], wanted: Iterable[int], name: str, pixels: Pixels
) -> Iterator[Image.Image]:
    """The frames with these indices of a folder, whose files are given in order."""
    for index in wanted:
        with files[index]() as stream:
            yield read_image(stream, f"frame {index} of {name}", pixels)


def read_clip(path: Path, count: int, geometry: ViewGeometry) -> Visual:
    """At most ``count`` frames of a clip, spread evenly over it, as views; ``path`` is a file or a folder.

    Raises ``MediaError`` where it cannot be read.
    """
    if path.is_dir():
        files = frame_files(path)
        if not files:
            raise MediaError(f"{path}: the folder has no frames")
        openers = [partial(file.open, "rb") for file in files]
        frames = folder_frames(openers, inference_frames(len(files), count), str(path), geometry.pixels)
        return prepare_video(frames, geometry)
    with path.open("rb") as stream:
        frames = clip_frames(
            stream, lambda clip: inference_frames(clip.frames, count), str(path), geometry.pixels
        )
        return prepare_video(frames, geometry)


def frame_files(folder: Path) -> list[Path]:
    """The files of a folder of frames in the order of their names, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_image(stream: BinaryIO) -> bool:
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    return head.startswith(IMAGE_STARTS) or (head.startswith(b"RIFF") and head.endswith(b"WEBP"))


def _animation_header(stream: BinaryIO) -> Clip:
    with Image.open(stream, formats=LOCAL_FORMATS) as image:
        durations = [frame.info.get("duration") or DEFAULT_MILLISECONDS for frame in _loaded(image)]
        return Clip(*image.size, len(durations), 1000 * len(durations) / sum(durations))


def _loaded(image: Image.Image) -> Iterator[Image.Image]:
    """The frames; each decoded, for the duration of a WebP frame is known only then."""
    for frame in ImageSequence.Iterator(image):
        frame.load()
        yield frame


def _animation_frames(stream: BinaryIO, wanted: Sequence[int], pixels: Pixels) -> Iterator[Image.Image]:
    """Each frame of an animation builds on the one before: all are decoded up to the last that is wanted."""
    with Image.open(stream, formats=LOCAL_FORMATS) as image:
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number in wanted:
                rgb = to_rgb(frame, pixels)
                yield from [rgb] * wanted.count(number)
            if number >= wanted[-1]:
                return
