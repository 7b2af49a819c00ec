"""Records of digits for the training of the tiny model and of its language tower.

They have more kinds of questions than the published curriculum's sets: three images, other wordings, and
answers as JSON, whole or in a given frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from data.digits import glyphs, json_answers, questions, variations
from data.digits.glyphs import Pool
from data.digits.records import DigitRecord, DigitVisual, captioned, clip, step_by_step
from data.digits.scenes import Scene, compose, pick, with_other_strokes
from train.toy_towers import calls
from train.toy_towers.samples import Lesson

IMAGE_QUESTIONS = (*questions.SINGLE, "read", "compare")
"""Kinds of questions about one image; the harder kinds are listed twice."""

TEXTS = 4
"""Questions per sample without an image: they are short."""

IMAGES = (0, 0, 0.7, 0.3)
"""Probabilities of 2 and 3 images in a sample of several."""

JSON_FORMS = (0.25, 0.5, 0.25)
"""Shares of JSON answers: as a whole text, values in a frame, and the rest of an opening."""

JSON_HINT_SHARE = 0.5
"""Share of framed answers whose question asks for JSON; a schema alone does not change the question."""

FORM_SHARE = 0.3
"""Share of the JSON answers about one image that state several facts."""


@dataclass(frozen=True)
class Mixture:
    """Which lessons a set has."""

    shares: Mapping[str, float]
    """Weights of the kinds of lessons, keys of ``MAKES``."""
    json: float = 0.25
    """Share of the lessons with one question, except those of ``ALWAYS_JSON``, whose answer is JSON."""
    bare_values: float = json_answers.BARE_SHARE
    """Share of the framed JSON answers that are a value alone."""


Make = Callable[[str, np.random.Generator, Pool], DigitRecord]


def lessons(name: str, total: int, seed: int, mixture: Mixture) -> Iterator[Lesson]:
    """The first ``total`` lessons of a set."""
    return (lesson_at(name, index, seed, mixture) for index in range(total))


def lesson_at(name: str, index: int, seed: int, mixture: Mixture) -> Lesson:
    """A lesson of a set, whatever the size of the set."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
    return _lesson(f"{name}-{index:06d}", rng, glyphs.training_pool(), mixture)


def _lesson(name: str, rng: np.random.Generator, pool: Pool, mixture: Mixture) -> Lesson:
    kind = list(mixture.shares)[pick(rng, mixture.shares.values())]
    record = MAKES[kind](name, rng, pool)
    record = replace(record, visuals=[_with_other_strokes(visual, rng) for visual in record.visuals])
    may_be_json = record.kind not in variations.UNVARIED and len(record.pairs) == 1
    if kind == CALLS:
        return _as_call(record, rng)
    if kind in ALWAYS_JSON or (may_be_json and rng.random() < mixture.json):
        return _as_json(record, rng, mixture.bare_values)
    pairs = [(variations.in_other_words(question, rng), answer) for question, answer in record.pairs]
    return Lesson(replace(record, pairs=pairs))


def _as_json(record: DigitRecord, rng: np.random.Generator, bare_share: float) -> Lesson:
    ((question, answer),) = record.pairs
    form = pick(rng, JSON_FORMS)
    if form == 0:
        asked = variations.asking_for_json(variations.in_other_words(question, rng), rng)
        return Lesson(replace(record, pairs=[(asked, json_answers.standard(question, answer))]))
    parts = json_answers.framed(question, answer, rng, bare_share)
    if record.kind in questions.SINGLE and rng.random() < FORM_SHARE:
        digits = record.visuals[0].scenes[0].digits
        question, parts = questions.read(digits, rng)[0], json_answers.form(digits, rng)
    asked = variations.in_other_words(question, rng)
    if rng.random() < JSON_HINT_SHARE:
        asked = variations.asking_for_json(asked, rng)
    record = replace(record, pairs=[(asked, json_answers.whole_text(parts))])
    return Lesson(record, parts, rng.random() if form == 2 else None)


def _as_call(record: DigitRecord, rng: np.random.Generator) -> Lesson:
    """The same image with a tool and a call of it as the answer."""
    digits = record.visuals[0].scenes[0].digits
    function = calls.tool(calls.random_facts(rng), rng)
    parts = calls.call(function, digits, rng)
    question = variations.in_other_words(questions.read(digits, rng)[0], rng)
    pairs = [(question, json_answers.whole_text(parts))]
    return Lesson(replace(record, pairs=pairs), parts, system=calls.system_message(function))


def _with_other_strokes(visual: DigitVisual, rng: np.random.Generator) -> DigitVisual:
    return DigitVisual(tuple(with_other_strokes(scene, rng) for scene in visual.scenes))


def _one_image(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    scene = compose(rng, pool)
    kind = questions.choose(IMAGE_QUESTIONS, rng)
    return _about(scene, name, kind, questions.SINGLE[kind](scene.digits, rng))


def _several_images(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    return _images(pick(rng, IMAGES), name, rng, pool)


def _images(total: int, name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    scenes = [compose(rng, pool, int(rng.integers(1, 4))) for _ in range(total)]
    pair = questions.multi_image([scene.digits for scene in scenes], rng)
    return DigitRecord(name, "multi-image", [pair], [DigitVisual((scene,)) for scene in scenes])


def _result(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image of two or three digits and one calculation."""
    record = step_by_step(name, rng, pool)
    return replace(record, pairs=record.pairs[:1])


def _described(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    scene = compose(rng, pool)
    answer = f"The digits {questions.joined(scene.digits)}."
    return _about(scene, name, "description", ("Describe the image.", answer))


def _about(scene: Scene, name: str, kind: str, pair: questions.Pair) -> DigitRecord:
    return DigitRecord(name, kind, [pair], [DigitVisual((scene,))])


def _texts(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """Several questions without an image, because they are short."""
    del pool
    return DigitRecord(name, "text", [questions.text_only(rng) for _ in range(TEXTS)])


def _drill(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """A sum with its steps, or another question without an image."""
    del pool
    if rng.random() < 0.5:
        return DigitRecord(name, "arithmetic", [questions.sum_in_words(rng)])
    return DigitRecord(name, "text", [questions.text_only(rng)])


MAKES: dict[str, Make] = {
    "one_image": _one_image,
    "several_images": _several_images,
    "three_images": partial(_images, 3),
    "clip": clip,
    "sums": step_by_step,
    "results": _result,
    "calls": _one_image,
    "texts": _texts,
    "drill": _drill,
    "caption": captioned,
    "description": _described,
}
"""Functions that make records, by the names of the shares in a recipe."""

CALLS = "calls"
"""The kind of lessons whose answers call a tool."""

ALWAYS_JSON = ("results",)
"""Kinds of lessons whose answers are JSON always: a result mostly has no written steps there."""
