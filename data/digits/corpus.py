"""Text for the tokenizer and the language tower: the same conversations with pictures written as characters.

A "picture" is the map of ``data.digits.maps`` spelled out: a dot for a patch without a digit's middle, the
digit elsewhere, laid out as visual tokens are (base view without line ends, then the stitched map row by
row). What the tower learns to read there is what the projector later has to say in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data.digits import maps, questions
from data.digits.records import Picture, Record
from lladav.images import ViewGeometry
from lladav.samples import VisualKind
from lladav.text import SYSTEM_PROMPT

DOT, LINE_END = ".", "\n"
SYSTEM_SHARE = 20
"""The system prompt is repeated for one in so many sentences."""


def sentences(training: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """What is said in the training records, for the tokenizer."""
    yield from ["system", "user", "assistant", LINE_END + LINE_END] * 100
    for records in training.values():
        for number, record in enumerate(records):
            if number % SYSTEM_SHARE == 0:
                yield SYSTEM_PROMPT
            for question, answer in record.pairs:
                yield f"{LINE_END}{question}"
                yield question + questions.choose(questions.SUFFIXES, np.random.default_rng(number))
                yield LINE_END + LINE_END + answer


def picture_characters(picture: Picture, kind: VisualKind, geometry: ViewGeometry) -> str:
    """A picture as one character per visual token."""
    if kind is VisualKind.video:
        return "".join(_rows(_frame_map(scene, geometry)) for scene in picture.scenes)
    scene = picture.scenes[0]
    if kind is VisualKind.tiled:
        return _flat(maps.base_map(scene, geometry)) + _rows(maps.merged_map(scene, geometry))
    if kind is VisualKind.padded:
        return _flat(maps.padded_map(scene, geometry)) + LINE_END
    return _flat(maps.base_map(scene, geometry))


def _frame_map(scene, geometry: ViewGeometry) -> np.ndarray:
    return maps.shrink(maps.base_map(scene, geometry), geometry.frame_side, geometry.frame_side)


def _flat(labels: np.ndarray) -> str:
    return "".join(DOT if label in (maps.EMPTY, maps.UNSURE) else str(label) for label in labels.flatten())


def _rows(labels: np.ndarray) -> str:
    return "".join(_flat(row) + LINE_END for row in labels)
