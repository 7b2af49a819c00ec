"""Base64 data URIs of images and videos, and the errors about their content.

A worker process imports this module, so it must not import torch.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from lladav.inputs.image_files import FORMATS
from serve.errors import ApiError

MAX_URI_PREFIX = 200
"""Characters of a data URI before its base64 data, at most."""
WHITE_SPACE = " \t\r\n"


@dataclass(frozen=True)
class MediaKind:
    """A kind of media, in data URIs and in errors."""

    name: str
    article: str
    media_types: frozenset[str]
    example: str
    fix: str


IMAGE = MediaKind(
    "image",
    "an",
    frozenset(f"image/{name}" for name in "png jpeg jpg webp gif bmp x-ms-bmp tiff".split()),
    "data:image/png;base64,...",
    f"send a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file",
)
VIDEO = MediaKind(
    "video",
    "a",
    frozenset({"image/gif", "image/webp", "image/png"})
    | {
        f"video/{n}"
        for n in "mp4 webm quicktime x-matroska matroska x-msvideo avi mpeg mp2t ogg x-flv".split()
    },
    "data:video/mp4;base64,...",
    "send a complete mp4, webm, mkv, avi or mpeg file, or an animated GIF",
)


def payload_start(url: str, param: str, kind: MediaKind) -> int:
    """Index of the first base64 character of a data URI; raises ``ApiError`` if it is none."""
    start = url.find(",", 0, MAX_URI_PREFIX) + 1
    scheme, _, description = url[: max(0, start - 1)].lower().partition(":")
    media_type, *parameters = (part.strip() for part in description.split(";"))
    if scheme != "data" or "base64" not in parameters or start == len(url):
        raise invalid(param, "not a base64 data URI", kind, f"send {kind.example} or similar")
    if media_type not in kind.media_types:
        raise invalid(param, "unsupported media type", kind)
    return start


def check_size(url: str, param: str, kind: MediaKind, limit: int) -> None:
    """Raise ``ApiError`` for a data URI with more than ``limit`` bytes, without decoding it."""
    start = payload_start(url, param, kind)
    length = len(url) - start - sum(url.count(each, start) for each in WHITE_SPACE)
    check_bytes(length // 4 * 3 - min(2, url.count("=", start)), param, kind, limit)


def check_bytes(size: int, param: str, kind: MediaKind, limit: int) -> None:
    """Raise ``ApiError`` for content of more than ``limit`` bytes."""
    if size > limit:
        raise too_large(param, f"{size} bytes; {kind.article} {kind.name} may have {limit} at most", kind)


def decoded_payload(url: str, param: str, kind: MediaKind) -> bytes:
    """The bytes of a data URI; raises ``ApiError`` if its data is not base64. White space has no effect: some
    encoders break lines."""
    text = url[payload_start(url, param, kind) :].translate(dict.fromkeys(map(ord, WHITE_SPACE)))
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(param, "not base64", kind, "send padded base64") from None


@contextmanager
def pillow_limited(pixels: int) -> Iterator[None]:
    """Make Pillow enforce the limit, too: it also checks frames and tiles larger than the header says."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def invalid(param: str, reason: str, kind: MediaKind, fix: str | None = None) -> ApiError:
    """The error 400 for content that cannot be decoded."""
    return ApiError(400, f"{param}: {reason}; {fix or kind.fix}", code=f"invalid_{kind.name}", param=param)


def too_large(param: str, reason: str, kind: MediaKind) -> ApiError:
    """The error 413 for content above a limit."""
    message = f"{param}: {reason}; send a smaller {kind.name}"
    return ApiError(413, message, code=f"{kind.name}_too_large", param=param)


def too_many_pixels(param: str, pixels: int, kind: MediaKind) -> ApiError:
    """The error 413 for an image or frames with more than ``pixels`` pixels."""
    return too_large(param, f"more than {pixels} pixels", kind)
