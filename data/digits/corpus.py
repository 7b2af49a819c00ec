"""Text for the tokenizer and the language tower: conversations whose images are written as characters.

An image has one character for each of its visual tokens, in their order (base view without newlines, then the
stitched tiles row by row): a dot for an empty patch, else a letter for the digit that covers the patch and
its rank from the left. The projector later has to give the language tower the same information.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

import numpy as np

from data.digits import descriptions, json_answers, maps, questions, wordings
from data.digits.records import DigitVisual
from data.digits.scenes import Scene
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import VisualKind

DOT, LINE_END = ".", "\n"
SIGNS = string.ascii_letters[:30]
"""One letter for each rank from the left (0-2) and digit."""

ROUNDS = 400
"""Number of digit lists that the texts of the tokenizer are about."""


def sentences() -> Iterator[str]:
    """The texts on which the tokenizer is trained: questions and answers of all kinds, not those of a set."""
    rng = np.random.default_rng(ROUNDS)
    for _ in range(ROUNDS):
        yield from ("system", "user", "assistant", LINE_END + LINE_END, *questions.SUFFIXES)
        digits = rng.integers(0, 10, 3).tolist()
        for question, answer in _pairs(digits, rng):
            yield question
            yield answer
            yield wordings.reworded(question, rng)
            yield f" {questions.choose(json_answers.REQUESTS, rng)}"
            yield json_answers.whole_text(json_answers.framed(question, answer, rng))
        yield questions.caption(digits, rng)
        yield json_answers.whole_text(json_answers.form(digits, rng))


def _pairs(digits: Sequence[int], rng: np.random.Generator) -> Iterator[questions.Pair]:
    """A question of each kind and its answer."""
    for ask in (*questions.SINGLE.values(), questions.video, questions.arithmetic, descriptions.describe):
        yield ask(digits, rng)
    yield questions.multi_image([digits, digits[:1], digits[1:]], rng)
    yield questions.text_only(rng)
    yield questions.sum_in_words(rng)


def visual_characters(visual: DigitVisual, kind: VisualKind, geometry: ViewGeometry) -> str:
    """An image or video as one character per visual token."""
    if kind is VisualKind.video:
        return "".join(_rows(_frame_map(scene, geometry)) for scene in visual.scenes)
    scene = visual.scenes[0]
    if kind is VisualKind.tiled:
        return _flat(maps.base_map(scene, geometry)) + _rows(maps.merged_map(scene, geometry))
    if kind is VisualKind.padded:
        return _flat(maps.padded_map(scene, geometry)) + LINE_END
    return _flat(maps.base_map(scene, geometry))


def _frame_map(scene: Scene, geometry: ViewGeometry) -> np.ndarray:
    return maps.shrink(maps.base_map(scene, geometry), geometry.frame_side, geometry.frame_side)


def _flat(signs: np.ndarray) -> str:
    return "".join(DOT if sign == maps.UNCOVERED else SIGNS[sign] for sign in signs.flatten())


def _rows(signs: np.ndarray) -> str:
    return "".join(_flat(row) + LINE_END for row in signs)
