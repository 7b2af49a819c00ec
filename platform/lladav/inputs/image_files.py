"""From an image file to 8-bit RGB.

Every entry point converts here, so that a file looks the same in training and in serving. Processes that
decode images for the server import this module: it must not import torch.
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

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that everybody may send."""
LOCAL_FORMATS = (*FORMATS, "AVIF", "JPEG2000", "PPM")
"""Formats of a user's own files. Pillow reads more, but some of its readers run other programs."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of each EXIF orientation upright."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_CHUNK = struct.Struct(">I4s")


def image_size(stream: BinaryIO, name: str, pixels: Pixels) -> tuple[int, int]:
    """(width, height) after decoding, from the header alone; raises ``MediaError`` where there is none."""
    with damage_of(name), Image.open(stream, formats=LOCAL_FORMATS) as image:
        width, height = image.size
        return (height, width) if _decoding_swaps(image, pixels) else (width, height)


def read_image(
    stream: BinaryIO, name: str, pixels: Pixels, formats: tuple[str, ...] = LOCAL_FORMATS
) -> Image.Image:
    """The first frame of an image file in RGB; raises ``MediaError`` where it is cut short or damaged."""
    with damage_of(name), Image.open(stream, formats=formats) as image:
        return to_rgb(image, pixels)


def to_rgb(image: Image.Image, pixels: Pixels = Pixels.displayed) -> Image.Image:
    """The current frame in 8-bit RGB: as a viewer displays it, or as the released trainer converts it.

    ``displayed``: EXIF orientation is applied, transparency is composited on white, grey of 16 or 32 bits is
    scaled to 8. ``released``: Pillow's plain conversion, which does none of these.
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
def damage_of(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a ``MediaError`` that names the file."""
    try:
        yield
    except (UserError, StorageError):
        raise
    except UnidentifiedImageError:
        raise MediaError(f"{name}: not an image of a known format ({', '.join(LOCAL_FORMATS)})") from None
    except Exception as error:  # noqa: BLE001 - damaged files make decoders raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MediaError(f"{name}: {reason}") from None


def _upright(image: Image.Image) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where EXIF cannot be read, as in browsers."""
    try:
        return _exif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged metadata makes its reader raise anything
        return 1


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF data; Pillow decodes a whole PNG to look for it behind the pixels, this only where needed."""
    stream = getattr(image, "fp", None)
    if image.format == "PNG" and stream is not None and not _has_late_metadata(stream):
        return Image.Image.getexif(image)
    return image.getexif()


def _has_late_metadata(png: BinaryIO) -> bool:
    """Whether metadata follows the pixels of a PNG; leaves the position of the stream as it was."""
    before, at, found = png.tell(), 8, set()
    try:
        while png.seek(at) == at and len(head := png.read(_CHUNK.size)) == _CHUNK.size:
            length, kind = _CHUNK.unpack(head)
            if kind in PNG_METADATA and b"IDAT" in found:
                return True
            found.add(kind)
            at += 12 + length
        return False
    finally:
        png.seek(before)


def _decoding_swaps(image: Image.Image, pixels: Pixels) -> bool:
    """Whether decoding swaps the width and height of an image that is open but not decoded yet.

    Pillow itself turns a TIFF when it decodes it, and reports the turned size where the orientation is a tag.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _orientation(image) in SIDEWAYS and ExifTags.Base.Orientation not in image.tag_v2
    return pixels is Pixels.displayed and _orientation(image) in SIDEWAYS


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits, scaled to 8, and white where it is transparent.

    Pillow would clip it at 255. The values are scaled in place: they may be large.
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


def _bounds(values: np.ndarray, usual: float) -> tuple[float, float]:
    """Black and white: 0 and ``usual``, or the extremes of an image that has values beyond these."""
    low, high = float(values.min()), float(values.max())
    return (0.0, usual) if low >= 0.0 and high <= usual else (low, high)
