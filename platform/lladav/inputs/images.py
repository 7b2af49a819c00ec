"""From images to views, and from sizes to token counts: tiling, padding and the geometry of merging.

The number of visual tokens depends only on the kind, the size and the number of views, so a plan needs no
pixels. Views stay uint8 until they are on the model's device. Making views needs at most 300 MB besides the
image, whatever its aspect ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from lladav.config.schema import ImageMode, ModelConfig, Pixels
from lladav.errors import UserError
from lladav.inputs.samples import Visual, VisualKind, VisualShape

PAD_GREY = 127
"""Background of images padded to a square: SigLIP's mean pixel as an integer."""

MAX_SIDE = 65536
"""Pixels. An image with a longer side is shrunk first, because resizing allocates a strip as high as the
image and as wide as a view."""
MAX_PADDED_SIDE = 8192
"""The same for an image that is padded to a square, which can be far larger than the image."""

SHRINK_MARGIN = 1.1
"""Merged features are shrunk only if they exceed the budget by this factor in each direction."""


@dataclass(frozen=True)
class ViewGeometry:
    """The settings that turn image files into views and views into tokens.

    ``tile`` is the side of a view in pixels, ``side`` in patches; ``grid`` is the most tiles along a side of
    an image; ``frame_side`` is the side of a video frame in visual tokens.
    """

    tile: int
    side: int
    grid: int
    shrink_above_views: int
    frame_side: int
    newline_per_frame_row: bool
    pixels: Pixels = Pixels.displayed

    @classmethod
    def of(cls, model: ModelConfig) -> ViewGeometry:
        images, vision = model.images, model.vision
        return cls(
            tile=vision.image_size,
            side=vision.image_size // vision.patch_size,
            grid=images.grid,
            shrink_above_views=images.shrink_above_views,
            frame_side=images.frame_side,
            newline_per_frame_row=images.newline_per_frame_row,
            pixels=images.pixels,
        )


@dataclass(frozen=True)
class Merge:
    """How the tiles of one image become one feature map, in patches.

    The stitched map has ``rows * side`` by ``columns * side`` patches; ``top`` and ``left`` are cut from both
    ends, and the rest is resized to ``height`` by ``width``.
    """

    columns: int
    rows: int
    top: int
    left: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Visual tokens of the merged map, a newline after each row included."""
        return self.height * (self.width + 1)


@lru_cache(4096)
def choose_grid(width: int, height: int, geometry: ViewGeometry) -> tuple[int, int]:
    """Return (columns, rows) of the tile grid that keeps the most pixels of the image and, among those,
    wastes the fewest."""

    def merit(cell: tuple[int, int]) -> tuple[int, int]:
        grid_width, grid_height = cell[0] * geometry.tile, cell[1] * geometry.tile
        scale = min(grid_width / width, grid_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - grid_width * grid_height

    side = range(1, geometry.grid + 1)
    return max(((columns, rows) for columns in side for rows in side), key=merit)


def merge_geometry(width: int, height: int, geometry: ViewGeometry) -> Merge:
    """Return which part of the stitched features of a tiled image is padding, and their size when merged."""
    columns, rows = choose_grid(width, height, geometry)
    map_width, map_height = columns * geometry.side, rows * geometry.side
    top = left = 0
    if width / height > map_width / map_height:
        top = _padding(map_height, int(height * (map_width / width)))
    else:
        left = _padding(map_width, int(width * (map_height / height)))
    kept_height, kept_width = _shrunk(map_height - 2 * top, map_width - 2 * left, geometry)
    return Merge(columns, rows, top, left, kept_height, kept_width)


def _padding(whole: int, image: int) -> int:
    """Patches of padding at each end. At least one row is kept; the released code may keep none."""
    return min((whole - image) // 2, (whole - 1) // 2)


def _shrunk(height: int, width: int, geometry: ViewGeometry) -> tuple[int, int]:
    excess = math.sqrt(height * width / (geometry.shrink_above_views * geometry.side**2))
    if excess <= SHRINK_MARGIN:
        return height, width
    return max(1, int(height // excess)), max(1, int(width // excess))


def image_kind(images: int, mode: ImageMode = ImageMode.tiled) -> VisualKind:
    """Return the kind of each image in a conversation of ``images`` images, in training and inference.

    Several images are padded. A single image is tiled, or one square view if ``mode`` is square.
    """
    if images > 1:
        return VisualKind.padded
    return VisualKind.square if mode is ImageMode.square else VisualKind.tiled


def view_count(kind: VisualKind, width: int, height: int, geometry: ViewGeometry) -> int:
    """Number of views of an image; the views of a video are its frames, whatever its size."""
    if kind is not VisualKind.tiled:
        return 1
    columns, rows = choose_grid(width, height, geometry)
    return 1 + columns * rows


def token_count(shape: VisualShape, geometry: ViewGeometry) -> int:
    """Number of visual tokens of an image or video, newlines included."""
    base = geometry.side**2
    if shape.kind is VisualKind.tiled:
        return base + merge_geometry(shape.width, shape.height, geometry).tokens
    if shape.kind is VisualKind.video:
        row = geometry.frame_side + geometry.newline_per_frame_row
        return shape.views * geometry.frame_side * row + (not geometry.newline_per_frame_row)
    return base + (shape.kind is VisualKind.padded)


def prepare_images(images: Sequence[Image.Image], geometry: ViewGeometry) -> list[Visual]:
    """Return the RGB images of one prompt as views."""
    kind = image_kind(len(images))
    return [prepare_image(image, kind, geometry) for image in images]


def prepare_image(image: Image.Image, kind: VisualKind, geometry: ViewGeometry) -> Visual:
    """Return one RGB image as views. Raises ``UserError`` for an image without pixels."""
    if min(image.size) < 1:
        raise UserError(f"image of {image.width}x{image.height} pixels has no content; remove or replace it")
    if kind is VisualKind.tiled:
        views = [_squashed(image, geometry.tile), *_tiles(image, geometry)]
    elif kind is VisualKind.padded:
        views = [_squashed(pad_to_square(_limit_side(image, MAX_PADDED_SIDE)), geometry.tile)]
    else:
        views = [_squashed(image, geometry.tile)]
    return Visual(VisualShape(kind, image.width, image.height, len(views)), _stack(views))


def prepare_video(frames: Iterable[Image.Image], geometry: ViewGeometry) -> Visual:
    """Return the RGB frames of a video as views. Only one frame is in memory at a time."""
    views, size = [], (0, 0)
    for frame in frames:
        size = size if views else frame.size
        views.append(_squashed(frame, geometry.tile))
    if not views:
        raise UserError("video has no frames; remove or replace it")
    return Visual(VisualShape(VisualKind.video, *size, len(views)), _stack(views))


def sample_frames(total: int, rate: float, frames_per_second: float, limit: int) -> list[int]:
    """Return the indices of the frames that the released trainer takes from a video of ``rate`` frames a
    second.

    These are every n-th frame, for ``frames_per_second``. If there are more than ``limit``, they are
    ``limit`` evenly spread frames.
    """
    every = range(0, total, max(1, round(rate / frames_per_second)))
    return list(every) if len(every) <= limit else spread_frames(total, limit)


def spread_frames(total: int, count: int) -> list[int]:
    """Return ``count`` indices, evenly spread from the first to the last frame. Some repeat if ``count`` is
    above ``total``."""
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def inference_frames(total: int, count: int) -> list[int]:
    """Return at most ``count`` evenly spread indices, as LMMs-Eval's video loader does."""
    return spread_frames(total, min(count, total))


def pad_to_square(image: Image.Image) -> Image.Image:
    """Center the image on a grey square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (PAD_GREY,) * 3)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _limit_side(image: Image.Image, max_side: int) -> Image.Image:
    """Shrink the image if one of its sides is longer than ``max_side``."""
    excess = max(image.size) / max_side
    if excess <= 1:
        return image
    width, height = (max(1, int(side / excess)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _tiles(image: Image.Image, geometry: ViewGeometry) -> list[Image.Image]:
    columns, rows = choose_grid(image.width, image.height, geometry)
    canvas = _fit(image, columns * geometry.tile, rows * geometry.tile)
    corners = [(x * geometry.tile, y * geometry.tile) for y in range(rows) for x in range(columns)]
    return [canvas.crop((x, y, x + geometry.tile, y + geometry.tile)) for x, y in corners]


def fitted_size(width: int, height: int, frame_width: int, frame_height: int) -> tuple[int, int]:
    """The size (width, height) of an image scaled to fit into the frame."""
    across, down = frame_width / width, frame_height / height
    if across < down:
        return frame_width, min(math.ceil(height * across), frame_height)
    return min(math.ceil(width * down), frame_width), frame_height


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale the image to fit into the frame, centered on black."""
    size = fitted_size(image.width, image.height, width, height)
    canvas = Image.new("RGB", (width, height))
    resized = _limit_side(image, MAX_SIDE).resize(size, Image.Resampling.BICUBIC)
    canvas.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas


def _squashed(image: Image.Image, tile: int) -> Image.Image:
    return _limit_side(image, MAX_SIDE).resize((tile, tile), Image.Resampling.BICUBIC)


def _stack(views: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(view, dtype=np.uint8).transpose(2, 0, 1) for view in views])
