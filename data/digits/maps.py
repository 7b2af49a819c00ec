"""Label maps: the digit at each patch of each view of a scene.

They are the targets of the vision tower's pretraining. Written as characters, they replace images in the
pretraining of the language tower. They use the same grid, resize and crop as ``lladav.inputs.images``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from data.digits.scenes import Placed, Scene
from lladav.inputs.images import ViewGeometry, choose_grid, fitted_size, merge_geometry

EMPTY = 10
"""Label of a patch that contains the middle of no digit."""

UNSURE = -100
"""Label of a patch to ignore: its digit is cut by the edge of the view, but not enough to count as absent."""

UNCOVERED = -1
"""Value of a patch that no digit covers."""

VISIBLE_SHARE, ABSENT_SHARE = 0.7, 0.35
"""A digit is visible if at least this share of its box is inside the view, and absent up to this share."""

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


def middle_maps(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """The digit whose middle is in each patch, else ``EMPTY`` or ``UNSURE``: (views, side, side).

    The views are those of a tiled image: the base view, then the tiles row by row.
    """
    return np.stack([_middle_map(scene, boxes, geometry) for boxes in _tiled_views(scene, geometry)])


def cover_maps(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """The index of the visible digit that covers the middle of each patch, else ``UNCOVERED``.

    The shape is (views, side, side), with the views of ``middle_maps``.
    """
    return np.stack([_cover_map(boxes, geometry) for boxes in _tiled_views(scene, geometry)])


def base_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """The sign of each patch (side, side) of the base view.

    The sign of a covered patch is 10 times the rank of its digit from the left plus the digit; other patches
    are ``UNCOVERED``.
    """
    return _sign_map(scene, _base_view(scene, geometry), geometry)


def padded_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """The signs (side, side) of the single view of a padded image."""
    longest = max(scene.width, scene.height)
    left, top = (longest - scene.width) // 2, (longest - scene.height) // 2
    scale = geometry.tile / longest
    boxes = [_scaled(item, scale, scale, left * scale, top * scale) for item in scene.placed]
    return _sign_map(scene, boxes, geometry)


def merged_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """The signs (height, width) of the stitched, cropped and shrunk tiles; ranks count within a tile."""
    merge = merge_geometry(scene.width, scene.height, geometry)
    _, *views = [_sign_map(scene, boxes, geometry) for boxes in _tiled_views(scene, geometry)]
    side = geometry.side
    stitched = np.stack(views).reshape(merge.rows, merge.columns, side, side).swapaxes(1, 2)
    stitched = stitched.reshape(merge.rows * side, merge.columns * side)
    cropped = stitched[merge.top : len(stitched) - merge.top, merge.left : stitched.shape[1] - merge.left]
    return shrink(cropped, merge.height, merge.width)


def ranks_from_left(cover: np.ndarray) -> np.ndarray:
    """The rank from the left of each covered patch's digit among the view's digits, from its cover map."""
    visible = np.unique(cover[cover != UNCOVERED])
    return np.where(cover == UNCOVERED, UNCOVERED, np.searchsorted(visible, cover))


def shrink(signs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map on a coarser grid; a cell is covered if any of its patches is."""
    small = np.full((height, width), UNCOVERED)
    for y, x in np.argwhere(signs != UNCOVERED):
        small[y * height // signs.shape[0], x * width // signs.shape[1]] = signs[y, x]
    return small


def _base_view(scene: Scene, geometry: ViewGeometry) -> list[Box]:
    across, down = geometry.tile / scene.width, geometry.tile / scene.height
    return [_scaled(item, across, down, 0, 0) for item in scene.placed]


def _tiled_views(scene: Scene, geometry: ViewGeometry) -> Iterator[list[Box]]:
    """The boxes of the digits in each view, relative to its upper left corner."""
    yield _base_view(scene, geometry)
    columns, rows = choose_grid(scene.width, scene.height, geometry)
    frame = columns * geometry.tile, rows * geometry.tile
    size = fitted_size(scene.width, scene.height, *frame)
    left, top = (frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2
    scale = size[0] / scene.width, size[1] / scene.height
    for y, x in product(range(0, frame[1], geometry.tile), range(0, frame[0], geometry.tile)):
        yield [_scaled(item, *scale, left - x, top - y) for item in scene.placed]


def _scaled(item: Placed, across: float, down: float, left: float, top: float) -> Box:
    return item.left * across + left, item.top * down + top, item.width * across, item.height * down


def _middle_map(scene: Scene, boxes: list[Box], geometry: ViewGeometry) -> np.ndarray:
    """The labels of one view.

    All digits are put in the row of their common baseline, so that the rows of a map are in reading order.
    """
    labels = np.full((geometry.side, geometry.side), EMPTY)
    patch = geometry.tile / geometry.side
    row = int(np.mean([top + height / 2 for _, top, _, height in boxes]) // patch)
    for digit, box in zip(scene.digits, boxes, strict=True):
        column = int((box[0] + box[2] / 2) // patch)
        if 0 <= column < geometry.side and 0 <= row < geometry.side:
            share = _visible_share(box, geometry)
            unsure = UNSURE if share > ABSENT_SHARE else EMPTY
            labels[row, column] = digit if share >= VISIBLE_SHARE else unsure
    return labels


def _sign_map(scene: Scene, boxes: list[Box], geometry: ViewGeometry) -> np.ndarray:
    cover = _cover_map(boxes, geometry)
    digits = np.array([*scene.digits, 0])[cover]
    return np.where(cover == UNCOVERED, UNCOVERED, 10 * ranks_from_left(cover) + digits)


def _cover_map(boxes: list[Box], geometry: ViewGeometry) -> np.ndarray:
    cover = np.full((geometry.side, geometry.side), UNCOVERED)
    patch = geometry.tile / geometry.side
    middles = (np.arange(geometry.side) + 0.5) * patch
    for number, (left, top, width, height) in enumerate(boxes):
        if _visible_share(boxes[number], geometry) >= VISIBLE_SHARE:
            across = np.abs(middles - (left + width / 2)) <= max(width, patch) / 2
            down = np.abs(middles - (top + height / 2)) <= max(height, patch) / 2
            cover[np.ix_(down, across)] = number
    return cover


def _visible_share(box: Box, geometry: ViewGeometry) -> float:
    """The share of a box that is inside the view."""
    left, top, width, height = box
    return _inside(left, width, geometry.tile) * _inside(top, height, geometry.tile)


def _inside(start: float, length: float, limit: float) -> float:
    return max(0.0, min(start + length, limit) - max(start, 0.0)) / length
