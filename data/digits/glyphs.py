"""The 1,797 handwritten digits of scikit-learn: a training pool, and a held-out fifth in two halves.

The split depends on no seed and no option, so that results of different runs are comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from data.digits.questions import Split

SPLIT_SEED = 1797
HELD_OUT_EVERY = 5
STORED_SIDE = 8
SMOOTH_SIDE = 36
SMOOTH_MARGIN = 2
MAX_INK = 16.0


@dataclass(frozen=True)
class Pool:
    """A set of glyphs: ``by_digit[d]`` is an int array with the indices of the glyphs of digit ``d``."""

    by_digit: tuple[np.ndarray, ...]

    @property
    def indices(self) -> np.ndarray:
        """All indices of the pool, ascending."""
        return np.sort(np.concatenate(self.by_digit))

    def draw(self, digit: int, rng: np.random.Generator) -> int:
        """The index of a random glyph of this digit."""
        return int(self.by_digit[digit][rng.integers(len(self.by_digit[digit]))])


@cache
def labels() -> np.ndarray:
    """The digit (0-9) of every glyph, as an int array (1797,)."""
    return _load()[1]


@cache
def training_pool() -> Pool:
    """Four fifths of every digit's glyphs."""
    return _pools()[0]


@cache
def held_out_pool(split: Split) -> Pool:
    """One half of the remaining fifth of every digit's glyphs."""
    start = list(Split).index(split)
    return Pool(tuple(indices[start :: len(Split)] for indices in _pools()[1].by_digit))


def stored(index: int) -> np.ndarray:
    """The pixels (8, 8) of a glyph as scikit-learn stores them: floats from 0 (paper) to 16 (ink)."""
    return _load()[0][index]


@cache
def smooth(index: int) -> Image.Image:
    """A glyph as a grey image of 36x36 pixels with bright ink, upscaled from its 8x8 stored pixels."""
    pixels = Image.fromarray((stored(index) * (255.0 / MAX_INK)).round().astype(np.uint8))
    side = SMOOTH_SIDE - 2 * SMOOTH_MARGIN
    framed = Image.new("L", (SMOOTH_SIDE, SMOOTH_SIDE))
    framed.paste(pixels.resize((side, side), Image.Resampling.BICUBIC), (SMOOTH_MARGIN, SMOOTH_MARGIN))
    return framed


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
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
