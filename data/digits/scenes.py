"""Scenes: images of one to three digits in a row.

A scene is first composed as numbers and then painted, so that the positions of the digits are known exactly.
Digits are read from left to right and never overlap horizontally.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from PIL import Image, ImageFilter

from data.digits import glyphs

UNIT = 40
"""Side of a canvas cell in pixels; canvases of different sizes need different tile grids."""

CANVASES = {(1, 1): 0.42, (2, 1): 0.25, (1, 2): 0.1, (3, 1): 0.1, (2, 2): 0.13}
"""Probability of each canvas size, (columns, rows) in cells."""

MIN_CELL_SCALE = 0.75
"""Width and height of the cells are drawn between this fraction of ``UNIT`` and ``UNIT``."""

COUNTS = {1: (0.5, 0.5, 0), 2: (0.1, 0.5, 0.4), 3: (0, 0.2, 0.8)}
"""Probabilities of 1, 2 and 3 digits, by the number of columns of the canvas."""

CANVAS_SHAPES = tuple(CANVASES)
MIN_CONTRAST = 100
MAX_GRAIN = 6
STROKE_DEVIATION = 0.35
STROKE_PIXELS = 3
"""Side of the window whose lightest or darkest pixel replaces its middle at stroke 1 or -1."""
MESH_CELLS = 2
MESH = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, MESH_CELLS + 1)] * 2), axis=-1)
"""Points (3, 3, xy) of the mesh that distorts a glyph, in fractions of its side, relative to its center."""


@dataclass(frozen=True)
class Placed:
    """A glyph and its box on the canvas in pixels; ``warp`` (3, 3, xy) displaces the points of ``MESH``.

    ``stroke`` makes the strokes thinner (-1) or thicker (1).
    """

    glyph: int
    digit: int
    left: int
    top: int
    width: int
    height: int
    warp: np.ndarray
    stroke: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A canvas of ``width`` x ``height`` pixels, its two RGB colors, and its digits from left to right.

    ``grain`` is the standard deviation of the noise in gray levels (0-255).
    """

    width: int
    height: int
    paper: tuple[int, int, int]
    ink: tuple[int, int, int]
    grain: float
    grain_seed: int
    placed: tuple[Placed, ...]

    @property
    def digits(self) -> list[int]:
        """The digits in reading order."""
        return [item.digit for item in self.placed]

    @property
    def glyphs(self) -> list[int]:
        """The indices of the glyphs in reading order."""
        return [item.glyph for item in self.placed]


def compose(
    rng: np.random.Generator,
    pool: glyphs.Pool,
    count: int | None = None,
    warp: float = 1.0,
    size: tuple[int, int] | None = None,
) -> Scene:
    """A random scene of ``count`` digits and ``size`` (width, height), both random by default.

    ``warp`` scales the distortion of the glyphs.
    """
    shape = CANVAS_SHAPES[pick(rng, _canvas_weights(count))]
    width, height = size or _canvas(rng, shape)
    count = count or pick(rng, COUNTS[shape[0]]) + 1
    paper, ink = _colors(rng)
    digits = rng.integers(0, 10, count)
    boxes = _row_of_boxes(rng, count, width, height)
    placed = [
        Placed(pool.draw(digit, rng), int(digit), *box, _warp(rng, warp))
        for digit, box in zip(digits, boxes, strict=True)
    ]
    return Scene(
        width, height, paper, ink, rng.uniform(0, MAX_GRAIN), int(rng.integers(1 << 31)), tuple(placed)
    )


def with_other_strokes(scene: Scene, rng: np.random.Generator, strength: float = 1.0) -> Scene:
    """The scene with strokes of random thickness, which stand for more handwritings."""
    strokes = np.clip(rng.normal(0, strength * STROKE_DEVIATION, len(scene.placed)), -1, 1)
    placed = [replace(item, stroke=float(each)) for item, each in zip(scene.placed, strokes, strict=True)]
    return replace(scene, placed=tuple(placed))


def paint(scene: Scene) -> Image.Image:
    """The scene as an RGB image."""
    cover = Image.new("L", (scene.width, scene.height))
    for item in scene.placed:
        cover.paste(_warped(item), (item.left, item.top))
    share = np.asarray(cover, dtype=np.float32)[..., None] / 255
    pixels = (1 - share) * np.array(scene.paper, np.float32) + share * np.array(scene.ink, np.float32)
    grain = np.random.default_rng(scene.grain_seed).standard_normal(pixels.shape[:2], dtype=np.float32)
    return Image.fromarray((pixels + scene.grain * grain[..., None]).clip(0, 255).astype(np.uint8))


def pick(rng: np.random.Generator, weights: Iterable[float]) -> int:
    """A random index with these weights; a hundred times faster than ``Generator.choice``."""
    cumulative = list(accumulate(weights))
    return bisect(cumulative, rng.random() * cumulative[-1], hi=len(cumulative) - 1)


def _canvas_weights(count: int | None) -> list[float]:
    """The weight of each canvas size, given the number of digits if that is fixed."""
    return [
        weight * (COUNTS[columns][count - 1] if count else 1) for (columns, _), weight in CANVASES.items()
    ]


def _canvas(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[int, int]:
    width, height = rng.uniform(MIN_CELL_SCALE, 1.0, 2) * UNIT * shape
    return round(width), round(height)


def _colors(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Colors of paper and ink with at least ``MIN_CONTRAST``; half of the scenes are light on dark."""
    dark = rng.uniform(0, 255 - MIN_CONTRAST)
    light = rng.uniform(dark + MIN_CONTRAST, 255)
    grey = [dark, light] if rng.random() < 0.5 else [light, dark]
    tinted = [(value + rng.uniform(-25, 25, 3)).clip(0, 255).astype(int).tolist() for value in grey]
    return tuple(tinted[0]), tuple(tinted[1])


def _row_of_boxes(
    rng: np.random.Generator, count: int, width: int, height: int
) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, width, height), one in each of ``count`` equal columns, on a nearly straight line."""
    column = width / count
    tallest = min(height, UNIT, column * 1.6)
    size = rng.uniform(0.65, 1.0) * tallest
    line = rng.uniform(size / 2, height - size / 2)
    return [_box(rng, index * column, column, size, line, height) for index in range(count)]


def _box(
    rng: np.random.Generator, start: float, column: float, size: float, line: float, canvas_height: int
) -> tuple[int, int, int, int]:
    high = size * rng.uniform(0.88, 1.0)
    wide = min(high * rng.uniform(0.7, 1.0), column * rng.uniform(0.88, 1.0))
    left = start + rng.uniform(0.2, 0.8) * (column - wide)
    top = np.clip(line - high / 2 + rng.uniform(-0.1, 0.1) * size, 0, canvas_height - high)
    return int(left), int(top), max(1, int(wide)), max(1, int(high))


def _warp(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Displacements (3, 3, xy) of the mesh: a rotation, a slant, a stretch and independent jitter."""
    y, x = MESH[..., 1], MESH[..., 0]
    rotation, slant = rng.normal(0, [0.08, 0.12]) * strength
    stretch = rng.normal(0, 0.06, 2) * strength
    jitter = rng.normal(0, 0.025, (*x.shape, 2)) * strength
    return (
        np.stack([stretch[0] * x - (rotation + slant) * y, stretch[1] * y + rotation * x], axis=-1) + jitter
    )


def _warped(item: Placed) -> Image.Image:
    """The glyph, distorted and resized to its box, as ink coverage (0-255)."""
    side, cell = glyphs.SMOOTH_SIDE, glyphs.SMOOTH_SIDE // MESH_CELLS
    points = ((MESH + 0.5 + item.warp) * side).tolist()
    mesh = [
        ((x * cell, y * cell, (x + 1) * cell, (y + 1) * cell), _corners(points, x, y))
        for y in range(MESH_CELLS)
        for x in range(MESH_CELLS)
    ]
    distorted = _stroked(glyphs.smooth(item.glyph), item.stroke).transform(
        (side, side), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
    )
    return distorted.resize((item.width, item.height), Image.Resampling.BICUBIC)


def _stroked(glyph: Image.Image, stroke: float) -> Image.Image:
    if not stroke:
        return glyph
    extreme = ImageFilter.MaxFilter if stroke > 0 else ImageFilter.MinFilter
    return Image.blend(glyph, glyph.filter(extreme(STROKE_PIXELS)), abs(stroke))


def _corners(points: list[list[list[float]]], x: int, y: int) -> tuple[float, ...]:
    """Source corners in Pillow's order: upper left, lower left, lower right, upper right."""
    return (*points[y][x], *points[y + 1][x], *points[y + 1][x + 1], *points[y][x + 1])
