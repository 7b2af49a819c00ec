"""How the tiny language tower learns before the curriculum starts: by masked diffusion on text alone.

Pictures are written as characters (``data.digits.corpus``). The squashed view alone comes first: looking a
digit up is learned many times faster there than among tiles, which follow. Sums have steps of their own in
between: among the pictures they would be learned last, and forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.digits import corpus, questions
from data.digits.glyphs import Pool, training_pool
from data.digits.records import (
    DigitRecord,
    Picture,
    captioned,
    clip,
    first_only,
    records,
    several_images,
    step_by_step,
)
from data.digits.scenes import compose, pick
from data.manifest.encoding import eos_tail, unit_hash
from lladav.config.schema import ObjectiveConfig, Supervise
from lladav.diffusion.masking import Stratum, corrupt, draw_noises
from lladav.inputs.chat import ChatTokenizer, Message, encode_chat, encode_plain, parse_conversation
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import PackedBatch, pack
from lladav.inputs.types import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, VisualKind
from lladav.model.attention import PackedAttention
from lladav.model.language import LanguageTower, rotary_factors
from train.toy_towers.fit import Fit, fit, shuffled

SETTINGS = Fit(steps=640, batch=64, adam_lr=2e-3, muon_lr=0.015, alone_from=430)
SQUASHED_STEPS = 400
SAMPLES = 10000
"""Of each kind, squashed and tiled."""

DRILL_EVERY = 4
DRILL_BATCH = 128
DRILL_SAMPLES = 20000
"""Every so many steps, one of so many short samples without a picture."""

ASKED = (*questions.SINGLE, "read", "compare")
"""Questions about one image; the harder ones are asked twice as often."""

SUMS, TEXTS = 2, 5
"""Questions about sums in an image, and about text alone, in a lesson."""

WEIGHTS = (0.42, 0.15, 0.06, 0.2, 0.12, 0.05)
"""How often a lesson is about one image, several, a clip, step-by-step sums, text alone, a caption."""

SUFFIX_SHARE = 0.3


def teach(
    tower: LanguageTower,
    tokenizer: ChatTokenizer,
    geometry: ViewGeometry,
    objective: ObjectiveConfig,
    seed: int,
    scale: float = 1.0,
) -> float:
    """Train the tower in place; returns the seconds it took. ``scale`` shortens the lessons (for tests)."""
    start(tower, seed)
    loss = LanguageLoss(tower, tokenizer, geometry, objective, seed, scale)
    named = [(f"language.{name}", parameter) for name, parameter in tower.named_parameters()]
    return fit("language tower", named, SETTINGS.scaled(scale), loss)


def start(tower: LanguageTower, seed: int) -> None:
    """Weights with a variance for a tower this narrow; what ends a residual branch starts small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if parameter.ndim == 2:
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * tower.config.layers) ** -0.5 if ends else 1.0
                parameter.normal_(0.0, shrink * parameter.shape[1] ** -0.5, generator=generator)


class LanguageLoss:
    """The loss of a step, as a function of the step."""

    def __init__(
        self,
        tower: LanguageTower,
        tokenizer: ChatTokenizer,
        geometry: ViewGeometry,
        objective: ObjectiveConfig,
        seed: int,
        scale: float = 1.0,
    ) -> None:
        self._tower, self._geometry, self._objective = tower, geometry, objective
        self._seed, self._ids = seed, tokenizer.ids
        writer = Writer(tokenizer, geometry, objective.eos_tail)
        pool = training_pool()
        lessons = list(records(_lesson, "lesson", round(SAMPLES * scale), seed, pool))
        drills = records(_drill, "drill", round(DRILL_SAMPLES * scale), seed, pool)
        self._squashed_steps = SQUASHED_STEPS * scale
        self._squashed = [writer.sample(record, squashed=True) for record in lessons]
        self._tiled = [writer.sample(record) for record in lessons]
        self._drills = [writer.sample(record) for record in drills]

    def __call__(self, step: int) -> Tensor:
        chosen = self._chosen(step)
        packed = pack(chosen, self._geometry)
        noises = draw_noises(
            packed,
            [sample.id for sample in chosen],
            self._seed,
            step,
            self._ids.eos,
            self._objective.min_mask_ratio,
            [Stratum(index, len(chosen)) for index in range(len(chosen))],
            self._objective.block_length,
        )
        noisy = corrupt(packed, noises, self._ids.mask, 1 / len(chosen), chunk=4096)
        hidden_TW = self._hidden(noisy.packed)
        return self._tower.lm_head(hidden_TW[noisy.masked_M], noisy.rows)[0]

    def _chosen(self, step: int) -> list[Sample]:
        """The samples of a step; every so many, a drill."""
        samples = self._squashed if step < self._squashed_steps else self._tiled
        batch, turn = SETTINGS.batch, step
        if step % DRILL_EVERY == DRILL_EVERY - 1:
            samples, batch, turn = self._drills, DRILL_BATCH, step // DRILL_EVERY
        return [samples[i] for i in shuffled(len(samples), batch, turn, self._seed)]

    def _hidden(self, packed: PackedBatch) -> Tensor:
        positions = torch.cat([torch.arange(length) for length in packed.lengths])
        rotary = rotary_factors(positions, self._tower.config)
        embeddings = self._tower.embed_tokens(packed.token_ids_T)
        return self._tower(embeddings, rotary, PackedAttention(packed.lengths))


class Writer:
    """Writes records as samples of text alone."""

    def __init__(self, tokenizer: ChatTokenizer, geometry: ViewGeometry, longest_tail: int) -> None:
        self._tokenizer, self._geometry, self._longest_tail = tokenizer, geometry, longest_tail
        signs = corpus.SIGNS + corpus.DOT + corpus.LINE_END
        self._ids = {sign: tokenizer.encode(sign)[0] for sign in signs}

    def sample(self, record: DigitRecord, squashed: bool = False) -> Sample:
        """The record as the curriculum has it; ``squashed`` leaves the tiles out."""
        kind = kind_of(record)
        if squashed and kind is VisualKind.tiled:
            kind = VisualKind.square
        messages = [_suffixed(message, record) for message in parse_conversation(record.conversations())]
        if record.kind == "caption":
            return self._spelled(record, encode_plain(messages, self._tokenizer), kind)
        tail = eos_tail(record.id, self._longest_tail)
        return self._spelled(record, encode_chat(messages, self._tokenizer, Supervise.answers, tail), kind)

    def _spelled(self, record: DigitRecord, text: Encoded, kind: VisualKind) -> Sample:
        """Each placeholder replaced by the characters of its picture."""
        pieces, start = [], 0
        places = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
        for place, picture in zip(places.tolist(), record.pictures, strict=True):
            signs = corpus.picture_characters(picture, kind, self._geometry)
            pieces += [_part(text, start, place), _unsupervised([self._ids[sign] for sign in signs])]
            start = place + 1
        pieces.append(_part(text, start, len(text.input_ids)))
        return Sample(record.id, Encoded(*(np.concatenate([getattr(p, n) for p in pieces]) for n in _FIELDS)))


_FIELDS = ("input_ids", "labels", "turns", "answer")


def kind_of(record: DigitRecord) -> VisualKind:
    """How the record's pictures lie in the sequence."""
    if record.kind == "caption":
        return VisualKind.square
    if record.pictures and record.pictures[0].is_video:
        return VisualKind.video
    return VisualKind.padded if len(record.pictures) > 1 else VisualKind.tiled


def _suffixed(message: Message, record: DigitRecord) -> Message:
    """Some of the users' questions end in /think or /no_think, as those of the last stage do."""
    if message.role != "user" or unit_hash(0, f"suffix/{record.id}") >= SUFFIX_SHARE:
        return message
    return Message(message.role, message.content + questions.SUFFIXES[record.kind == "arithmetic"])


def _part(text: Encoded, start: int, end: int) -> Encoded:
    return Encoded(*(getattr(text, name)[start:end] for name in _FIELDS))


def _unsupervised(ids: Sequence[int]) -> Encoded:
    values = np.array(ids, np.int32)
    return Encoded(values, np.full_like(values, IGNORED), np.zeros_like(values), np.zeros(len(ids), bool))


def _lesson(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """A question to a picture at a time: an answer further up would tell the next one."""
    makes = (_one_image, several_images, clip, _sums, _texts, captioned)
    make = makes[pick(rng, WEIGHTS)]
    record = make(name, rng, pool)
    return first_only(record) if make is several_images else record


def _one_image(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    scene = compose(rng, pool)
    kind = questions.choose(ASKED, rng)
    return DigitRecord(name, kind, [questions.SINGLE[kind](scene.digits, rng)], [Picture((scene,))])


def _sums(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image and as many sums in it."""
    record = step_by_step(name, rng, pool)
    digits = record.pictures[0].scenes[0].digits
    return replace(record, pairs=[questions.arithmetic(digits, rng) for _ in range(SUMS)])


def _drill(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """A sum with its steps, or any other question about text alone."""
    del pool
    if rng.random() < 0.5:
        return DigitRecord(name, "arithmetic", [questions.sum_in_words(rng)])
    return DigitRecord(name, "text", [questions.text_only(rng)])


def _texts(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """Questions without an image are short: many fit where one picture does."""
    del pool
    return DigitRecord(name, "text", [questions.text_only(rng) for _ in range(TEXTS)])
