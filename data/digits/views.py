"""Labelled views of random scenes, for the pretraining of the vision tower.

Many scenes are painted in two processes, which do not import torch, so that they start quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from data.digits import maps
from data.digits.glyphs import Pool
from data.digits.scenes import Scene, compose, paint, with_other_strokes
from lladav.inputs.images import ViewGeometry, prepare_image
from lladav.inputs.samples import VisualKind

PROCESSES = 2
FEW_SCENES = 1000
"""Up to this number of scenes, starting processes takes longer than painting."""
EMPTY_TILE_SHARE = 0.1
"""Fraction of the tiles without the middle of a digit that are kept."""


class LabelledViews(NamedTuple):
    """Views (N, 3, S, S; uint8) and labels of their patches (N, P; int64).

    ``middles`` is the digit whose middle is in the patch, ``glyphs`` the glyph that covers it, and
    ``from_left`` and ``from_right`` the rank of that glyph among the view's digits. ``is_base`` (N) marks
    base views.
    """

    views: np.ndarray
    middles: np.ndarray
    glyphs: np.ndarray
    from_left: np.ndarray
    from_right: np.ndarray
    is_base: np.ndarray


def labelled_views(
    pool: Pool, scenes: int, geometry: ViewGeometry, seed: int, warp: float = 1.0
) -> LabelledViews:
    """The base views and tiles of random scenes, without most of the tiles that have no digit."""
    part = scenes // PROCESSES
    jobs = [(pool, part, geometry, (seed, number), warp) for number in range(PROCESSES)]
    if scenes <= FEW_SCENES:
        return _joined([_draw(*job) for job in jobs])
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as workers:
        return _joined(list(workers.map(_draw, *zip(*jobs, strict=True))))


def _draw(
    pool: Pool, scenes: int, geometry: ViewGeometry, seed: tuple[int, int], warp: float
) -> LabelledViews:
    rng = np.random.default_rng(seed)
    drawn = (with_other_strokes(compose(rng, pool, warp=warp), rng, warp) for _ in range(scenes))
    return _joined([_of_scene(scene, geometry, rng) for scene in drawn])


def _joined(parts: Sequence[LabelledViews]) -> LabelledViews:
    return LabelledViews._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _of_scene(scene: Scene, geometry: ViewGeometry, rng: np.random.Generator) -> LabelledViews:
    views = prepare_image(paint(scene), VisualKind.tiled, geometry).views
    middles = maps.middle_maps(scene, geometry)
    is_base = np.arange(len(views)) == 0
    kept = is_base | (middles != maps.EMPTY).any((1, 2)) | (rng.random(len(views)) < EMPTY_TILE_SHARE)
    covers = maps.cover_maps(scene, geometry)[kept]
    glyphs = np.append(scene.glyphs, maps.UNCOVERED)[covers]
    from_left, from_right = np.stack([_ranks(cover) for cover in covers], axis=1)
    flat = [x.reshape(kept.sum(), -1) for x in (middles[kept], glyphs, from_left, from_right)]
    return LabelledViews._make([views[kept], *flat, is_base[kept]])


def _ranks(cover: np.ndarray) -> np.ndarray:
    """The rank of each covered patch's digit from the left and from the right: (2, side, side)."""
    from_left = maps.ranks_from_left(cover)
    from_right = np.where(cover == maps.UNCOVERED, maps.UNCOVERED, from_left.max() - from_left)
    return np.stack([from_left, from_right])
