"""The 1,797 handwritten digits that scikit-learn ships, and the fifth of them that no training image may
show.

The split is fixed: it depends neither on a seed nor on an option, so that results of different runs compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

SPLIT_SEED = 1797
HELD_OUT_EVERY = 5
STORED_SIDE = 8
SMOOTH_SIDE = 36
SMOOTH_MARGIN = 2
MAX_INK = 16.0


@dataclass(frozen=True)
class Pool:
    """Indices of the glyphs that may be drawn, by digit: ``by_digit[d]`` is an int array."""

    by_digit: tuple[np.ndarray, ...]

    @property
    def indices(self) -> np.ndarray:
        """All indices of the pool, ascending."""
        return np.sort(np.concatenate(self.by_digit))

    def draw(self, digit: int, rng: np.random.Generator) -> int:
        """A random glyph of this digit."""
        return int(self.by_digit[digit][rng.integers(len(self.by_digit[digit]))])


@cache
def labels() -> np.ndarray:
    """The digit (0-9) of every glyph, int array of 1,797."""
    return _bunch()[1]


@cache
def training_pool() -> Pool:
    """Four fifths of every digit's glyphs."""
    return _pools()[0]


@cache
def held_out_pool() -> Pool:
    """The remaining fifth of every digit's glyphs."""
    return _pools()[1]


def stored(index: int) -> np.ndarray:
    """One glyph's (8, 8) pixels as scikit-learn keeps them, ink up to 16."""
    return _bunch()[0][index]


@cache
def smooth(index: int) -> Image.Image:
    """One glyph as a grey picture of 36x36 pixels, ink bright, enlarged from its 8x8 stored pixels."""
    pixels = Image.fromarray((stored(index) * (255.0 / MAX_INK)).round().astype(np.uint8))
    side = SMOOTH_SIDE - 2 * SMOOTH_MARGIN
    framed = Image.new("L", (SMOOTH_SIDE, SMOOTH_SIDE))
    framed.paste(pixels.resize((side, side), Image.Resampling.BICUBIC), (SMOOTH_MARGIN, SMOOTH_MARGIN))
    return framed


@cache
def _bunch() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # takes a second to import

    pixels, digits = load_digits(return_X_y=True)
    return np.reshape(pixels, (-1, STORED_SIDE, STORED_SIDE)), np.asarray(digits, dtype=int)


@cache
def _pools() -> tuple[Pool, Pool]:
    rng = np.random.default_rng(SPLIT_SEED)
    shuffled = [rng.permutation(np.flatnonzero(labels() == digit)) for digit in range(10)]
    held_out = [indices[: len(indices) // HELD_OUT_EVERY] for indices in shuffled]
    training = [indices[len(indices) // HELD_OUT_EVERY :] for indices in shuffled]
    return Pool(tuple(training)), Pool(tuple(held_out))
