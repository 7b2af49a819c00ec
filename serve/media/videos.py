"""Turns the video reference of a request into the frames that the model gets.

A reference is a base64 data URI, or the file:// URL of a file in a directory that the operator lists. A
worker process of ``serve.media.loader`` reads it, so this module must not import torch.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from lladav.errors import MediaError, UserError
from lladav.inputs.clips import clip_frames
from lladav.inputs.images import ViewGeometry, inference_frames, prepare_video
from lladav.inputs.samples import Visual
from lladav.inputs.video_files import Clip
from serve.errors import ApiError
from serve.media.data_uris import VIDEO, decoded_payload, invalid, pillow_limited, too_many_pixels

FILE = "file://"
HOSTS = ("", "localhost")
"""Hosts of a file:// URL that mean this machine."""


class _TooManyPixels(UserError):
    """The frames of a video have more pixels than are allowed."""


def is_file(url: str) -> bool:
    """Whether a URL names a file of the server."""
    return url[: len(FILE)].lower() == FILE


def read_video(
    url: str, directories: Sequence[str], frames: int, geometry: ViewGeometry, pixels: int, param: str
) -> Visual:
    """At most ``frames`` evenly spread frames of a video, each of at most ``pixels`` pixels.

    Runs in a worker. Raises only ``ApiError``.
    """

    def choose(clip: Clip) -> Sequence[int]:
        if clip.width * clip.height > pixels:
            raise _TooManyPixels(f"more than {pixels} pixels")
        return inference_frames(clip.frames, frames)

    try:
        with _opened(url, directories, param) as stream, pillow_limited(pixels):
            return prepare_video(clip_frames(stream, choose, "video", geometry.pixels), geometry)
    except _TooManyPixels:
        raise too_many_pixels(param, pixels, VIDEO) from None
    except MediaError:  # its message may quote the decoder, which may quote a path
        raise invalid(param, "not a video of a known format, damaged or truncated", VIDEO) from None
    except UserError as error:
        raise ApiError(400, f"{param}: {error}", code="video_disabled", param=param) from None


def _opened(url: str, directories: Sequence[str], param: str) -> BinaryIO:
    if is_file(url):
        return open_listed(url, directories, param)
    return io.BytesIO(decoded_payload(url, param, VIDEO))


def open_listed(url: str, directories: Sequence[str], param: str) -> BinaryIO:
    """Open the file of a file:// URL.

    Raises ``ApiError`` unless the file, with all symbolic links resolved, is in one of the directories. The
    error is the same for a file elsewhere and for none, so that a client cannot find out which files exist.
    """
    try:
        path = os.path.realpath(_path(url), strict=True)
        if not any(Path(path).is_relative_to(os.path.realpath(each)) for each in directories):
            raise PermissionError
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except (OSError, ValueError):
        raise _refused(param) from None
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise _refused(param)
    return stream


def _path(url: str) -> str:
    """The absolute path in a file:// URL; raises ``ValueError`` for another host.

    Clients append paths without escaping them, so ``#`` and ``?`` are part of the name.
    """
    host, slash, path = url[len(FILE) :].partition("/")
    if host.lower() not in HOSTS or not slash:
        raise ValueError(host)
    return "/" + unquote(path)


def _refused(param: str) -> ApiError:
    message = f"{param}: no such file in a directory that this server lists; send a base64 data URI"
    return ApiError(400, message, code="file_refused", param=param)
