"""Frames of a clip: a video file, an animated GIF, WebP or PNG, or a folder of frames.

A still image is a clip of one frame.
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
from lladav.inputs.image_files import LOCAL_FORMATS, as_media_error, read_image, to_rgb
from lladav.inputs.images import ViewGeometry, inference_frames, prepare_video
from lladav.inputs.samples import Visual
from lladav.inputs.video_files import Clip, VideoFile

DEFAULT_MILLISECONDS = 100
"""How long players show a frame that has no duration."""
IMAGE_STARTS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff")
"""First bytes of GIF, PNG and JPEG files."""

Choose = Callable[[Clip], Sequence[int]]
"""Chooses frames of a clip: returns their indices, ascending."""
Opener = Callable[[], BinaryIO]


def clip_header(stream: BinaryIO, name: str) -> Clip:
    """Return the size, number of frames and frame rate of a clip in a file.

    Reads a whole animation, and a whole video if its header lacks the number of frames. Raises ``MediaError``
    if the clip cannot be read.
    """
    with as_media_error(name):
        if _is_image(stream):
            return _animation_header(stream)
        with closing(VideoFile(stream)) as video:
            return video.clip()


def clip_frames(stream: BinaryIO, choose: Choose, name: str, pixels: Pixels) -> Iterator[Image.Image]:
    """Yield the chosen frames of a clip in RGB. Raises ``MediaError`` for a damaged frame."""
    with as_media_error(name):
        if _is_image(stream):
            indices = choose(_animation_header(stream))
            stream.seek(0)
            yield from _animation_frames(stream, indices, pixels)
            return
        with closing(VideoFile(stream)) as video:
            yield from video.frames(choose(video.clip(is_counted=True)))


def folder_frames(
    files: Sequence[Opener], indices: Iterable[int], name: str, pixels: Pixels
) -> Iterator[Image.Image]:
    """Yield the frames with these indices from the files of a folder, in RGB."""
    for index in indices:
        with files[index]() as stream:
            yield read_image(stream, f"frame {index} of {name}", pixels)


def read_clip(path: Path, count: int, geometry: ViewGeometry) -> Visual:
    """Return at most ``count`` frames, evenly spread over a clip, as views; ``path`` is a file or a folder.

    Raises ``MediaError`` if the clip cannot be read.
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
    """Return the files of a folder of frames, sorted by name and without hidden files."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_image(stream: BinaryIO) -> bool:
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    return head.startswith(IMAGE_STARTS) or (head.startswith(b"RIFF") and head.endswith(b"WEBP"))


def _animation_header(stream: BinaryIO) -> Clip:
    with Image.open(stream, formats=LOCAL_FORMATS) as image:
        durations = []
        for frame in ImageSequence.Iterator(image):
            frame.load()  # the duration of a WebP frame is known only after decoding
            durations.append(frame.info.get("duration") or DEFAULT_MILLISECONDS)
        return Clip(*image.size, len(durations), 1000 * len(durations) / sum(durations))


def _animation_frames(stream: BinaryIO, indices: Sequence[int], pixels: Pixels) -> Iterator[Image.Image]:
    """Decode up to the last chosen frame: each frame of an animation is drawn over the one before."""
    with Image.open(stream, formats=LOCAL_FORMATS) as image:
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number in indices:
                rgb = to_rgb(frame, pixels)
                yield from [rgb] * indices.count(number)
            if number >= indices[-1]:
                return
