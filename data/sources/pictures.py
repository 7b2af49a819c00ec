"""Sizes and pixels of images and clips.

A clip is an animated GIF or WebP, read with Pillow, or a film (mp4 and the like), read with the optional
package PyAV. Sizes come from headers alone: a damaged file may have one and still fail when it is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, ImageSequence

from data.records import BadSample, Reason
from lladav.errors import UserError

MILLISECONDS_UNTOLD = 100
"""How long players show a frame that does not say."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on damaged content; PyAV has its own."""


@dataclass(frozen=True)
class Clip:
    """Size in pixels, number of frames and frames per second."""

    width: int
    height: int
    frames: int
    rate: float


def image_size(stream: BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) that the header tells; raises ``BadSample`` where there is none."""
    with _told(name), Image.open(stream) as image:
        return image.size


def decode_image(content: bytes, name: str) -> Image.Image:
    """The whole image in RGB; raises ``BadSample`` where it is cut short or damaged."""
    with _told(name), Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def clip_header(stream: BinaryIO, name: str) -> Clip:
    """What a clip consists of; raises ``BadSample`` where it cannot be read."""
    with _told(name):
        return _animation_header(stream) if _is_animation(stream) else _film_header(stream, name)


def decode_clip(content: bytes, frames: Sequence[int], name: str) -> list[Image.Image]:
    """The frames with these indices, in RGB; raises ``BadSample`` where one is damaged or absent."""
    wanted, stream = set(frames), io.BytesIO(content)
    with _told(name):
        every = _animation_frames(stream) if _is_animation(stream) else _film_frames(stream, name)
        images = []
        for number, frame in enumerate(every):
            if number in wanted:
                images.append(frame.convert("RGB"))
            if len(images) == len(wanted):
                return images
    raise BadSample(Reason.bad_image, f"{name} ends before frame {max(frames)}")


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from_av = type(error).__module__.startswith("av.")
        if isinstance(error, UserError) or not (from_av or isinstance(error, _DAMAGE)):
            raise
        raise BadSample(Reason.bad_image, f"{name}: {error}") from None


def _is_animation(stream: BinaryIO) -> bool:
    head = stream.read(12)
    stream.seek(0)
    return head.startswith((b"GIF8", b"\x89PNG")) or (head.startswith(b"RIFF") and head.endswith(b"WEBP"))


def _animation_header(stream: BinaryIO) -> Clip:
    with Image.open(stream) as image:
        lasting = [frame.info.get("duration") or MILLISECONDS_UNTOLD for frame in _loaded(image)]
        return Clip(*image.size, len(lasting), 1000 * len(lasting) / sum(lasting))


def _loaded(image: Image.Image) -> Iterator[Image.Image]:
    """The frames; each decoded, for WebP tells durations only then."""
    for frame in ImageSequence.Iterator(image):
        frame.load()
        yield frame


def _animation_frames(stream: BinaryIO) -> Iterator[Image.Image]:
    with Image.open(stream) as image:
        yield from ImageSequence.Iterator(image)


def _film_header(stream: BinaryIO, name: str) -> Clip:
    with _film(stream, name) as container:
        video = container.streams.video[0]
        rate = float(video.average_rate or video.guessed_rate or 1)
        seconds = float(video.duration * video.time_base) if video.duration else 0.0
        return Clip(video.width, video.height, video.frames or max(1, int(seconds * rate)), rate)


def _film_frames(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    with _film(stream, name) as container:
        for frame in container.decode(video=0):
            yield frame.to_image()


def _film(stream: BinaryIO, name: str) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(f"{name}: reading films needs the package av; run pip install av") from None
    container = av.open(stream)
    if not container.streams.video or container.streams.video[0].codec_context is None:
        raise BadSample(Reason.bad_image, f"{name} has no pictures that can be decoded")
    return container
