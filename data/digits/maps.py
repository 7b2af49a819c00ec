"""Which patch of which view holds the middle of which digit.

The same maps are targets of the vision tower (view by view) and, written as characters, the "pictures" that
the language tower learns to read. They follow ``lladav.inputs.images`` exactly: same grid, resize and crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from data.digits.scenes import Placed, Scene
from lladav.inputs.images import ViewGeometry, choose_grid, fitted_size, merge_geometry

EMPTY = 10
"""A patch that holds no digit's middle."""

UNSURE = -100
"""A patch whose digit is cut by the view's edge too much to be told, and too little to be called absent."""

UNCOVERED = -1
"""A patch that no digit covers."""

TOLD, ABSENT = 0.7, 0.35
"""Share of a digit's box inside the view above which it counts, and below which it does not."""

Box = tuple[float, float, float, float]


def middle_maps(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(views, side, side): the digit with its middle in each patch of a tiled image, else ``EMPTY`` or
    ``UNSURE``; base view first, tiles row by row.
    """
    return np.stack([_middle_map(scene, boxes, geometry) for boxes in _tiled_views(scene, geometry)])


def cover_maps(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(views, side, side): which of the scene's digits covers each patch's middle, ``UNCOVERED`` where none
    that is told.
    """
    return np.stack([_cover_map(boxes, geometry) for boxes in _tiled_views(scene, geometry)])


def base_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(side, side) signs of the squashed view: 10 times the place from the left plus the digit, of the digit
    that covers the patch, else ``UNCOVERED``.
    """
    return _sign_map(scene, _base_view(scene, geometry), geometry)


def padded_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(side, side) signs of the one view of an image padded to a square."""
    longest = max(scene.width, scene.height)
    left, top = (longest - scene.width) // 2, (longest - scene.height) // 2
    scale = geometry.tile / longest
    boxes = [_scaled(item, scale, scale, left * scale, top * scale) for item in scene.placed]
    return _sign_map(scene, boxes, geometry)


def merged_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(height, width) signs of the stitched, cut and shrunk tiles; places count within a tile."""
    merge = merge_geometry(scene.width, scene.height, geometry)
    _, *views = [_sign_map(scene, boxes, geometry) for boxes in _tiled_views(scene, geometry)]
    side = geometry.side
    stitched = np.stack(views).reshape(merge.rows, merge.columns, side, side).swapaxes(1, 2)
    stitched = stitched.reshape(merge.rows * side, merge.columns * side)
    cut = stitched[merge.top : len(stitched) - merge.top, merge.left : stitched.shape[1] - merge.left]
    return shrink(cut, merge.height, merge.width)


def places(cover: np.ndarray) -> np.ndarray:
    """The place from the left of each covered patch's digit, from a view's (side, side) cover map."""
    seen = np.unique(cover[cover != UNCOVERED])
    return np.where(cover == UNCOVERED, UNCOVERED, np.searchsorted(seen, cover))


def shrink(signs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map on a coarser grid, whose cells keep a sign if any of theirs has one."""
    small = np.full((height, width), UNCOVERED)
    for y, x in np.argwhere(signs != UNCOVERED):
        small[y * height // signs.shape[0], x * width // signs.shape[1]] = signs[y, x]
    return small


def _base_view(scene: Scene, geometry: ViewGeometry) -> list[Box]:
    across, down = geometry.tile / scene.width, geometry.tile / scene.height
    return [_scaled(item, across, down, 0, 0) for item in scene.placed]


def _tiled_views(scene: Scene, geometry: ViewGeometry) -> Iterator[list[Box]]:
    """The digits' boxes as each view sees them, in pixels from its upper left corner."""
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
    """Labels of one view.

    All digits share the row of the line they stand on, so that a map read row by row is in reading order.
    """
    labels = np.full((geometry.side, geometry.side), EMPTY)
    patch = geometry.tile / geometry.side
    row = int(np.mean([top + height / 2 for _, top, _, height in boxes]) // patch)
    for digit, box in zip(scene.digits, boxes, strict=True):
        column = int((box[0] + box[2] / 2) // patch)
        if 0 <= column < geometry.side and 0 <= row < geometry.side:
            seen = _seen(box, geometry)
            labels[row, column] = digit if seen >= TOLD else UNSURE if seen > ABSENT else EMPTY
    return labels


def _sign_map(scene: Scene, boxes: list[Box], geometry: ViewGeometry) -> np.ndarray:
    cover = _cover_map(boxes, geometry)
    digits = np.array([*scene.digits, 0])[cover]
    return np.where(cover == UNCOVERED, UNCOVERED, 10 * places(cover) + digits)


def _cover_map(boxes: list[Box], geometry: ViewGeometry) -> np.ndarray:
    cover = np.full((geometry.side, geometry.side), UNCOVERED)
    patch = geometry.tile / geometry.side
    middles = (np.arange(geometry.side) + 0.5) * patch
    for place, (left, top, width, height) in enumerate(boxes):
        if _seen(boxes[place], geometry) >= TOLD:
            across = np.abs(middles - (left + width / 2)) <= max(width, patch) / 2
            down = np.abs(middles - (top + height / 2)) <= max(height, patch) / 2
            cover[np.ix_(down, across)] = place
    return cover


def _seen(box: Box, geometry: ViewGeometry) -> float:
    """Share of a digit's box that lies inside the view."""
    left, top, width, height = box
    return _inside(left, width, geometry.tile) * _inside(top, height, geometry.tile)


def _inside(start: float, length: float, limit: float) -> float:
    return max(0.0, min(start + length, limit) - max(start, 0.0)) / length
