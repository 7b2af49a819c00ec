"""Text for the tokenizer and the language tower: conversations whose images are written as characters.

An image has one character for each of its visual tokens, in their order (base view without newlines, then the
stitched tiles row by row): a dot for an empty patch, else a letter for the digit that covers the patch and
its rank from the left. The projector later has to give the language tower the same information.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

import numpy as np

from data.digits import maps, questions
from data.digits.records import DigitRecord, DigitVisual
from data.digits.scenes import Scene
from lladav.inputs.chat import SYSTEM_PROMPT
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import VisualKind

DOT, LINE_END = ".", "\n"
SIGNS = string.ascii_letters[:30]
"""One letter for each rank from the left (0-2) and digit."""

RECORDS_PER_SYSTEM_PROMPT = 20
"""The texts of the chat template occur once for this many records."""


def sentences(records: Sequence[DigitRecord]) -> Iterator[str]:
    """The texts of training records, on which the tokenizer is trained."""
    for number, record in enumerate(records):
        if number % RECORDS_PER_SYSTEM_PROMPT == 0:
            yield from (SYSTEM_PROMPT, "system", "user", "assistant", LINE_END + LINE_END)
        for question, answer in record.pairs:
            yield question
            yield question + questions.SUFFIXES[number % len(questions.SUFFIXES)]
            yield answer


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
