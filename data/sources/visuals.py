"""Sizes and pixels of a record's images and clips; what cannot be read is a ``BadSample``.

Sizes come from headers alone: a damaged file may have one and still fail when it is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from data.records.record import BadSample, Reason
from lladav.config.schema import Pixels
from lladav.errors import MediaError
from lladav.inputs import clips
from lladav.inputs import image_files as pixels
from lladav.inputs.clips import Choose, Clip, Opener


def image_size(stream: BinaryIO, name: str, mode: Pixels = Pixels.displayed) -> tuple[int, int]:
    """(width, height) of the decoded image, from its header; raises ``BadSample`` where there is none."""
    with _bad_sample():
        return pixels.image_size(stream, name, mode)


def decode_image(content: bytes, name: str, mode: Pixels = Pixels.displayed) -> Image.Image:
    """The whole image in RGB; raises ``BadSample`` where it is cut short or damaged."""
    with _bad_sample():
        return pixels.read_image(io.BytesIO(content), name, mode)


def clip_header(stream: BinaryIO, name: str) -> Clip:
    """What a clip consists of; raises ``BadSample`` where it cannot be read."""
    with _bad_sample():
        return clips.clip_header(stream, name)


def clip_frames(stream: BinaryIO, choose: Choose, name: str, mode: Pixels) -> Iterator[Image.Image]:
    """The chosen frames of a clip in RGB, one at a time; raises ``BadSample`` for a damaged one."""
    with _bad_sample():
        yield from clips.clip_frames(stream, choose, name, mode)


def decode_clip(
    content: bytes, frames: Sequence[int], name: str, mode: Pixels = Pixels.displayed
) -> list[Image.Image]:
    """The frames with these indices, in RGB; raises ``BadSample`` where one is damaged or absent."""
    return list(clip_frames(io.BytesIO(content), lambda _: frames, name, mode))


def folder_frames(
    files: Sequence[Opener], frames: Iterable[int], name: str, mode: Pixels
) -> Iterator[Image.Image]:
    """The frames with these indices of a folder of images; raises ``BadSample`` for a damaged one."""
    with _bad_sample():
        yield from clips.folder_frames(files, frames, name, mode)


@contextmanager
def _bad_sample() -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise BadSample(Reason.bad_image, str(error)) from None
