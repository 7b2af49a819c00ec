"""Which patch of which view holds the middle of which digit.

The same maps are targets of the vision tower (view by view) and, written as characters, the "pictures" that
the language tower learns to read. They follow ``lladav.images`` exactly: same grid, same resize, same cut.
"""

from __future__ import annotations

import numpy as np

from data.digits.scenes import Placed, Scene
from lladav.images import ViewGeometry, choose_grid, fitted_size, merge_geometry

EMPTY = 10
"""A patch that holds no digit's middle."""

UNSURE = -100
"""A patch whose digit is cut by the view's edge too much to be told, and too little to be called absent."""

TOLD, ABSENT = 0.7, 0.35
"""Share of a digit's box inside the view above which it counts, and below which it does not."""

Box = tuple[float, float, float, float]


def base_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(side, side) labels of the squashed view."""
    across, down = geometry.tile / scene.width, geometry.tile / scene.height
    boxes = [_scaled(item, across, down, 0, 0) for item in scene.placed]
    return _view_map(scene, boxes, 0, 0, geometry)


def view_maps(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(views, side, side) labels of a tiled image's views: base view first, tiles row by row."""
    columns, rows = choose_grid(scene.width, scene.height, geometry)
    boxes = _boxes_on_grid(scene, columns, rows, geometry)
    corners = [(x * geometry.tile, y * geometry.tile) for y in range(rows) for x in range(columns)]
    tiles = [_view_map(scene, boxes, x, y, geometry) for x, y in corners]
    return np.stack([base_map(scene, geometry), *tiles])


def merged_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(height, width) labels of the stitched, cut and shrunk map; digits no tile shows well are missing."""
    merge = merge_geometry(scene.width, scene.height, geometry)
    views, side = view_maps(scene, geometry)[1:], geometry.side
    stitched = views.reshape(merge.rows, merge.columns, side, side).swapaxes(1, 2)
    stitched = stitched.reshape(merge.rows * side, merge.columns * side)
    cut = stitched[merge.top : len(stitched) - merge.top, merge.left : stitched.shape[1] - merge.left]
    return shrink(cut, merge.height, merge.width)


def padded_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    """(side, side) labels of the one view of an image padded to a square."""
    longest = max(scene.width, scene.height)
    left, top = (longest - scene.width) // 2, (longest - scene.height) // 2
    scale = geometry.tile / longest
    boxes = [_scaled(item, scale, scale, left * scale, top * scale) for item in scene.placed]
    return _view_map(scene, boxes, 0, 0, geometry)


def shrink(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map on a coarser grid; a digit stays wherever its middle falls."""
    small = np.full((height, width), EMPTY)
    for y, x in np.argwhere(labels < EMPTY):
        small[y * height // labels.shape[0], x * width // labels.shape[1]] = labels[y, x]
    return np.where(small == UNSURE, EMPTY, small)


def _boxes_on_grid(scene: Scene, columns: int, rows: int, geometry: ViewGeometry) -> list[Box]:
    frame = columns * geometry.tile, rows * geometry.tile
    size = fitted_size(scene.width, scene.height, *frame)
    left, top = (frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2
    return [_scaled(item, size[0] / scene.width, size[1] / scene.height, left, top) for item in scene.placed]


def _scaled(item: Placed, across: float, down: float, left: float, top: float) -> Box:
    return item.left * across + left, item.top * down + top, item.width * across, item.height * down


def _view_map(scene: Scene, boxes: list[Box], x: int, y: int, geometry: ViewGeometry) -> np.ndarray:
    """Labels of the view whose upper left corner lies at (x, y) of the frame that ``boxes`` are in.

    All digits share the row of the line they stand on, so that a map read row by row is in reading order.
    """
    labels = np.full((geometry.side, geometry.side), EMPTY)
    patch = geometry.tile / geometry.side
    row = int((np.mean([top + height / 2 for _, top, _, height in boxes]) - y) // patch)
    for digit, (left, top, width, height) in zip(scene.digits, boxes, strict=True):
        column = int((left + width / 2 - x) // patch)
        if not (0 <= column < geometry.side and 0 <= row < geometry.side):
            continue
        seen = _inside(left - x, width, geometry.tile) * _inside(top - y, height, geometry.tile)
        labels[row, column] = digit if seen >= TOLD else UNSURE if seen > ABSENT else EMPTY
    return labels


def _inside(start: float, length: float, limit: float) -> float:
    return max(0.0, min(start + length, limit) - max(start, 0.0)) / length
