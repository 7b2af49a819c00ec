"""From an image file to 8-bit RGB.

Training and serving both convert files here, so that they see the same pixels. This module must not import
torch, because the server's decoding processes import it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from lladav.config.schema import Pixels
from lladav.errors import MediaError, StorageError, UserError
from lladav.inputs.image_headers import HEAD_BYTES, PNG_START, plain_size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats for HTTP requests: few, because untrusted bytes can attack each of their decoders."""
LOCAL_FORMATS = (*FORMATS, "AVIF", "JPEG2000", "PPM")
"""Formats of training data and local files, which the user trusts. Pillow reads more formats, but some of its
readers run other programs."""

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image of each EXIF orientation upright."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_CHUNK = struct.Struct(">I4s")


def image_size(stream: BinaryIO, name: str, pixels: Pixels) -> tuple[int, int]:
    """Return (width, height) after decoding, read from the header. Raises ``MediaError`` if it is damaged."""
    with as_media_error(name):
        return _plain_size(stream, pixels) or _size(stream, pixels)


def _plain_size(stream: BinaryIO, pixels: Pixels) -> tuple[int, int] | None:
    """The size of a PNG or JPEG without metadata; None for any other file."""
    head = stream.read(HEAD_BYTES)
    size = plain_size(head)
    if size and head.startswith(PNG_START) and pixels is Pixels.displayed and _has_late_metadata(stream):
        return None
    return size


def _size(stream: BinaryIO, pixels: Pixels) -> tuple[int, int]:
    with Image.open(stream, formats=LOCAL_FORMATS) as image:
        width, height = image.size
        return (height, width) if _decoding_swaps(image, pixels) else (width, height)


def read_image(
    stream: BinaryIO, name: str, pixels: Pixels, formats: tuple[str, ...] = LOCAL_FORMATS
) -> Image.Image:
    """Return the first frame of an image file in RGB. Raises ``MediaError`` if it is truncated or damaged."""
    with as_media_error(name), Image.open(stream, formats=formats) as image:
        return to_rgb(image, pixels)


def to_rgb(image: Image.Image, pixels: Pixels = Pixels.displayed) -> Image.Image:
    """Convert the current frame to 8-bit RGB.

    ``displayed``, as an image viewer: EXIF orientation is applied, transparency is composited on white, and
    grey of 16 or 32 bits is scaled to 8. ``released``, as the released trainer: Pillow's plain conversion.
    """
    image.load()
    if pixels is Pixels.released:
        return image.convert("RGB")
    upright = _upright(image)
    if upright.mode[0] in "IF":
        upright = _eight_bits(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer, white = upright.convert("RGBA"), Image.new("RGB", upright.size, "white")
    white.paste(layer, mask=layer)
    return white


@contextmanager
def as_media_error(name: str) -> Iterator[None]:
    """Turn every error of a decoder into a ``MediaError`` that names the file."""
    try:
        yield
    except (UserError, StorageError):
        raise
    except UnidentifiedImageError:
        raise MediaError(f"{name}: not an image of a known format ({', '.join(LOCAL_FORMATS)})") from None
    except Exception as error:  # noqa: BLE001 - decoders raise errors of any class for damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MediaError(f"{name}: {reason}") from None


def _upright(image: Image.Image) -> Image.Image:
    transposition = TRANSPOSITIONS.get(_orientation(image))
    return image if transposition is None else image.transpose(transposition)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if EXIF cannot be read, as in browsers."""
    try:
        return _exif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - the reader raises errors of any class for damaged metadata
        return 1


def _exif(image: Image.Image) -> Image.Exif:
    # Pillow's PNG reader decodes all pixels to look for EXIF behind them; avoid it if nothing is there.
    stream = getattr(image, "fp", None)
    if image.format == "PNG" and stream is not None and not _has_late_metadata(stream):
        return Image.Image.getexif(image)
    return image.getexif()


def _has_late_metadata(png: BinaryIO) -> bool:
    """Whether metadata follows the pixels of a PNG. Restores the position of the stream."""
    before, position, kind, found = png.tell(), 8, b"", set()
    try:
        while kind != b"IEND" and png.seek(position) == position:
            if len(head := png.read(_CHUNK.size)) < _CHUNK.size:
                return False
            length, kind = _CHUNK.unpack(head)
            if kind in PNG_METADATA and b"IDAT" in found:
                return True
            found.add(kind)
            position += 12 + length
        return False
    finally:
        png.seek(before)


def _decoding_swaps(image: Image.Image, pixels: Pixels) -> bool:
    """Whether decoding will swap the width and height of an open image.

    Pillow rotates a TIFF while decoding, and reports the rotated size if the orientation is a TIFF tag.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _orientation(image) in SIDEWAYS and ExifTags.Base.Orientation not in image.tag_v2
    return pixels is Pixels.displayed and _orientation(image) in SIDEWAYS


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 or 32 bits to 8 bits, with transparent pixels white.

    Pillow would clip the values at 255. The values are scaled in place, because the image may be large.
    """
    values, clear = np.array(image, dtype=np.float32), image.info.get("transparency")
    is_clear = values == clear if isinstance(clear, int) else None
    np.nan_to_num(values, copy=False)
    low, high = _bounds(values, 1.0 if image.mode == "F" else 65535.0)
    values -= low
    values *= 255.0 / max(high - low, 1e-9)
    if is_clear is not None:
        values[is_clear] = 255
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _bounds(values: np.ndarray, usual_white: float) -> tuple[float, float]:
    """The values of black and white: 0 and ``usual_white``, or the extremes if values exceed these."""
    low, high = float(values.min()), float(values.max())
    return (0.0, usual_white) if low >= 0.0 and high <= usual_white else (low, high)
