"""Records of the training sets and of the held-out questions, before they are written to files.

Record i of a set depends only on the seed, the name of the set and i, so that a set can be enlarged without
changing its first records.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from data.digits import descriptions, glyphs, questions
from data.digits.glyphs import Pool
from data.digits.questions import Split
from data.digits.scenes import Scene, compose, pick

MARK = "<image>"
TURNS = (0.3, 0.4, 0.3)
"""Probabilities that a conversation has 1, 2 and 3 questions."""

FRAMES = (2, 2, 3)
"""Numbers of frames of a video, drawn uniformly."""
HELD_OUT_WARP = 0.3
"""Distortion of held-out glyphs; in training it is 1, to augment the few handwritten digits."""

HELD_OUT = {
    "read": 120,
    "count": 60,
    "locate": 60,
    "compare": 80,
    "parity": 60,
    "multi-image": 80,
    "video": 30,
    "text": 40,
    "arithmetic": 130,
    "reworded": 60,
}
"""Number of questions by type in each half of the held-out questions."""


@dataclass(frozen=True)
class DigitVisual:
    """One image, or a video of one frame per second if there are several scenes."""

    scenes: tuple[Scene, ...]

    @property
    def is_video(self) -> bool:
        return len(self.scenes) > 1

    @property
    def glyphs(self) -> list[int]:
        """The indices of all glyphs, ascending."""
        return sorted({glyph for scene in self.scenes for glyph in scene.glyphs})


@dataclass(frozen=True)
class DigitRecord:
    """A conversation as pairs of question and answer; ``kind`` is the type of its first question.

    ``split`` is the half that a held-out question belongs to; training records have none.
    """

    id: str
    kind: str
    pairs: list[questions.Pair]
    visuals: list[DigitVisual] = field(default_factory=list)
    split: Split | None = None

    def conversations(self) -> list[dict[str, str]]:
        """The turns with LLaVA's keys; an ``<image>`` mark per image or video precedes the first question."""
        marks = f"{MARK}\n" * len(self.visuals)
        (question, answer), *rest = self.pairs
        return [
            turn
            for q, a in [(marks + question, answer), *rest]
            for turn in ({"from": "human", "value": q}, {"from": "gpt", "value": a})
        ]


Make = Callable[[str, np.random.Generator, Pool], DigitRecord]


def captioned(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image and its caption."""
    scene = compose(rng, pool)
    ask = "Describe the image." if rng.random() < 0.5 else "What is this?"
    return DigitRecord(
        name, "caption", [(ask, questions.caption(scene.digits, rng))], [DigitVisual((scene,))]
    )


def single_image(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image and one to three questions of different types."""
    scene = compose(rng, pool)
    kinds = rng.permutation(list(questions.SINGLE))[: pick(rng, TURNS) + 1].tolist()
    pairs = [questions.SINGLE[kind](scene.digits, rng) for kind in kinds]
    return DigitRecord(name, kinds[0], pairs, [DigitVisual((scene,))])


def described(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image and a long description."""
    scene = compose(rng, pool)
    return DigitRecord(
        name, "description", [descriptions.describe(scene.digits, rng)], [DigitVisual((scene,))]
    )


def one_vision(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """Several images, text alone, a video, or one image."""
    make = (several_images, text_alone, clip, single_image)[pick(rng, (0.4, 0.2, 0.1, 0.3))]
    return make(name, rng, pool)


def several_images(name: str, rng: np.random.Generator, pool: Pool, warp: float = 1.0) -> DigitRecord:
    """Two images of one or two digits each, and one or two questions."""
    scenes = [compose(rng, pool, int(rng.integers(1, 3)), warp) for _ in range(2)]
    digits = [scene.digits for scene in scenes]
    pairs = [questions.multi_image(digits, rng) for _ in range(1 + (rng.random() < 0.4))]
    return DigitRecord(name, "multi-image", pairs, [DigitVisual((scene,)) for scene in scenes])


def text_alone(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One to three questions without an image."""
    del pool
    return DigitRecord(name, "text", [questions.text_only(rng) for _ in range(pick(rng, TURNS) + 1)])


def clip(name: str, rng: np.random.Generator, pool: Pool, warp: float = 1.0) -> DigitRecord:
    """A video of two or three frames of equal size with one digit each."""
    first = compose(rng, pool, 1, warp)
    size = first.width, first.height
    rest = [compose(rng, pool, 1, warp, size) for _ in range(questions.choose(FRAMES, rng) - 1)]
    scenes = (first, *rest)
    digits = [scene.digits[0] for scene in scenes]
    return DigitRecord(name, "video", [questions.video(digits, rng)], [DigitVisual(scenes)])


def step_by_step(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image of two or three digits, and one or two calculations with every step written out."""
    scene = compose(rng, pool, int(rng.integers(2, 4)))
    pairs = [questions.arithmetic(scene.digits, rng) for _ in range(1 + (rng.random() < 0.5))]
    return DigitRecord(name, "arithmetic", pairs, [DigitVisual((scene,))])


def records(make: Make, name: str, total: int, seed: int, pool: Pool) -> Iterator[DigitRecord]:
    """The first ``total`` records of the set ``name``."""
    for index in range(total):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
        yield make(f"{name}-{index:06d}", rng, pool)


def held_out(split: Split, seed: int, totals: dict[str, int] = HELD_OUT) -> Iterator[DigitRecord]:
    """Records of one question each about the glyphs of a half; ``totals`` are numbers of records by type."""
    prefix = "test" if split is Split.test else "held-out"
    for kind, total in totals.items():
        make = _held_out_make(kind, split)
        for record in records(make, f"{prefix}-{kind}", total, seed, glyphs.held_out_pool(split)):
            ((question, answer),) = record.pairs
            yield replace(record, pairs=[(questions.in_words_of(split, question), answer)], split=split)


def _held_out_make(kind: str, split: Split) -> Make:
    if kind == "multi-image":
        return lambda name, rng, pool: first_only(several_images(name, rng, pool, HELD_OUT_WARP))
    if kind == "video":
        return lambda name, rng, pool: clip(name, rng, pool, HELD_OUT_WARP)
    if kind == "text":
        return lambda name, rng, pool: first_only(text_alone(name, rng, pool))
    if kind == "reworded":
        ask = partial(questions.reworded, split=split)
    else:
        ask = questions.arithmetic if kind == "arithmetic" else questions.SINGLE[kind]
    return partial(_single_question, kind, ask)


def _single_question(
    kind: str, ask: questions.Ask, name: str, rng: np.random.Generator, pool: Pool
) -> DigitRecord:
    count = int(rng.integers(2, 4)) if kind == "arithmetic" else None
    scene = compose(rng, pool, count, HELD_OUT_WARP)
    return DigitRecord(name, kind, [ask(scene.digits, rng)], [DigitVisual((scene,))])


def first_only(record: DigitRecord) -> DigitRecord:
    """The record with only its first question."""
    return DigitRecord(record.id, record.kind, record.pairs[:1], record.visuals)
