"""Pretraining of the tiny language tower on text without images, with the objective of the curriculum.

Images are spelled as characters (``data.digits.corpus``). Samples with the base view alone come first,
because the tower learns to look up a digit there many times faster than among tiles, which follow. Batches of
text-only questions are mixed in, because sums between image samples are learned last and forgotten first.
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
    DigitVisual,
    captioned,
    clip,
    first_only,
    records,
    several_images,
    step_by_step,
)
from data.digits.scenes import compose, pick
from data.manifest.encoding import eos_tail, unit_hash
from lladav.config.schema import Config, Supervise
from lladav.diffusion.masking import Stratum
from lladav.diffusion.objective import Objective
from lladav.inputs.chat import ChatTokenizer, Message, encode_chat, encode_plain, parse_conversation
from lladav.inputs.images import ViewGeometry, image_kind
from lladav.inputs.packing import PackedBatch, pack
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, VisualKind
from lladav.model.attention import PackedAttention
from lladav.model.language import LanguageTower, rotary_factors
from lladav.model.llada_v import LLaDAV
from train.toy_towers.fit import Fit, fit, shuffled

SETTINGS = Fit(steps=640, batch=64, adam_lr=2e-3, muon_lr=0.015, all_cores_from=430)
BASE_VIEW_STEPS = 400
"""Steps with images as base views alone; images are tiled after them."""
SAMPLES = 10000
"""Number of image samples; each is written with base views and with tiles."""

TEXT_ONLY_EVERY = 4
"""Every fourth step has a batch of text-only samples."""
TEXT_ONLY_FACTOR = 2
"""Samples in a text-only batch, relative to other batches: they are short."""
TEXT_ONLY_SAMPLES = 20000

IMAGE_QUESTIONS = (*questions.SINGLE, "read", "compare")
"""Kinds of questions about one image; the harder kinds are listed twice."""

SUMS, TEXTS = 2, 5
"""Questions per sample: about sums in an image, and without an image."""

RECORD_SHARES = (0.42, 0.15, 0.06, 0.2, 0.12, 0.05)
"""Shares of samples: one image, several images, a clip, step-by-step sums, text only, a caption."""

SUFFIX_SHARE = 0.3
"""Share of questions that end in /think or /no_think."""


def pretrain(model: LLaDAV, tokenizer: ChatTokenizer, config: Config, scale: float = 1.0) -> float:
    """Train the language tower in place; return the seconds it took. ``scale`` shortens it (for tests)."""
    tower = model.language
    initialize_weights(tower, config.train.seed)
    loss = LanguageLoss(model, tokenizer, config, scale)
    named = [(f"language.{name}", parameter) for name, parameter in tower.named_parameters()]
    return fit("language tower", named, SETTINGS.scaled(scale), loss)


def initialize_weights(tower: LanguageTower, seed: int) -> None:
    """Set weights of variance 1 / fan-in, and smaller ones at the ends of residual branches."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if parameter.ndim == 2:
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * tower.config.layers) ** -0.5 if ends else 1.0
                parameter.normal_(0.0, shrink * parameter.shape[1] ** -0.5, generator=generator)


class LanguageLoss:
    """The loss of a step, as a function of the step."""

    def __init__(self, model: LLaDAV, tokenizer: ChatTokenizer, config: Config, scale: float = 1.0) -> None:
        self._tower, self._geometry = model.language, model.geometry
        self._attention = config.model.attention
        self._seed = seed = config.train.seed
        settings = replace(config.objective, stratified=True)
        self._objective = Objective(settings, tokenizer.ids, seed, chunk=4096)
        writer = SampleWriter(tokenizer, model.geometry, settings.eos_tail)
        pool = training_pool()
        # The names are part of the records' ids, which seed the random draws: they stay as they are.
        mixed = list(records(_mixed_record, "lesson", round(SAMPLES * scale), seed, pool))
        text_only = records(_text_only_record, "drill", round(TEXT_ONLY_SAMPLES * scale), seed, pool)
        self._batch, self._base_view_steps = SETTINGS.scaled(scale).batch, BASE_VIEW_STEPS * scale
        self._base_views = [writer.sample(record, base_view_only=True) for record in mixed]
        self._tiled = [writer.sample(record) for record in mixed]
        self._text_only = [writer.sample(record) for record in text_only]

    def __call__(self, step: int) -> Tensor:
        chosen = self._chosen(step)
        packed = pack(chosen, self._geometry)
        batch = self._objective.batch(
            packed,
            [sample.id for sample in chosen],
            step,
            [Stratum(index, len(chosen)) for index in range(len(chosen))],
            scale=1 / len(chosen),
        )
        hidden_TW = self._hidden(batch.packed)
        return self._tower.lm_head(hidden_TW[batch.output_positions_M], batch.rows)[0]

    def _chosen(self, step: int) -> list[Sample]:
        """The samples of a step."""
        samples = self._base_views if step < self._base_view_steps else self._tiled
        batch, number = self._batch, step
        if step % TEXT_ONLY_EVERY == TEXT_ONLY_EVERY - 1:
            samples, batch, number = self._text_only, TEXT_ONLY_FACTOR * batch, step // TEXT_ONLY_EVERY
        return [samples[i] for i in shuffled(len(samples), batch, number, self._seed)]

    def _hidden(self, packed: PackedBatch) -> Tensor:
        positions = torch.cat([torch.arange(length) for length in packed.lengths])
        rotary = rotary_factors(positions, self._tower.config)
        embeddings = self._tower.embed_tokens(packed.token_ids_T)
        attend = PackedAttention(packed.lengths, self._attention, packed.turns_T)
        return self._tower(embeddings, rotary, attend)


class SampleWriter:
    """Makes training samples of text from records, with images spelled as characters."""

    def __init__(self, tokenizer: ChatTokenizer, geometry: ViewGeometry, longest_tail: int) -> None:
        self._tokenizer, self._geometry, self._longest_tail = tokenizer, geometry, longest_tail
        signs = corpus.SIGNS + corpus.DOT + corpus.LINE_END
        self._ids = {sign: tokenizer.encode(sign)[0] for sign in signs}

    def sample(self, record: DigitRecord, base_view_only: bool = False) -> Sample:
        """The record's text as in the curriculum; ``base_view_only`` leaves the tiles out."""
        kind = kind_of(record)
        if base_view_only and kind is VisualKind.tiled:
            kind = VisualKind.square
        messages = [_suffixed(message, record) for message in parse_conversation(record.conversations())]
        if record.kind == "caption":
            return self._spelled(record, encode_plain(messages, self._tokenizer), kind)
        tail = eos_tail(record.id, self._longest_tail)
        return self._spelled(record, encode_chat(messages, self._tokenizer, Supervise.answers, tail), kind)

    def _spelled(self, record: DigitRecord, text: Encoded, kind: VisualKind) -> Sample:
        """The text with each image placeholder replaced by the characters of its image."""
        pieces, start = [], 0
        positions = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
        for position, visual in zip(positions.tolist(), record.visuals, strict=True):
            signs = corpus.visual_characters(visual, kind, self._geometry)
            pieces += [_part(text, start, position), _unsupervised([self._ids[sign] for sign in signs])]
            start = position + 1
        pieces.append(_part(text, start, len(text.input_ids)))
        return Sample(record.id, Encoded(*(np.concatenate([getattr(p, n) for p in pieces]) for n in _FIELDS)))


_FIELDS = ("input_ids", "labels", "turns", "answer")


def kind_of(record: DigitRecord) -> VisualKind:
    """How the record's images become views."""
    if record.kind == "caption":
        return VisualKind.square
    if record.visuals and record.visuals[0].is_video:
        return VisualKind.video
    return image_kind(len(record.visuals))


def _suffixed(message: Message, record: DigitRecord) -> Message:
    """Append /think or /no_think to some questions, as the last stage does."""
    if message.role != "user" or unit_hash(0, f"suffix/{record.id}") >= SUFFIX_SHARE:
        return message
    return Message(message.role, message.content + questions.SUFFIXES[record.kind == "arithmetic"])


def _part(text: Encoded, start: int, end: int) -> Encoded:
    return Encoded(*(getattr(text, name)[start:end] for name in _FIELDS))


def _unsupervised(ids: Sequence[int]) -> Encoded:
    values = np.array(ids, np.int32)
    return Encoded(values, np.full_like(values, IGNORED), np.zeros_like(values), np.zeros(len(ids), bool))


def _mixed_record(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """A record of a random kind, with one question per image: an earlier answer would reveal the next."""
    makes = (_one_image, several_images, clip, _sums, _texts, captioned)
    make = makes[pick(rng, RECORD_SHARES)]
    record = make(name, rng, pool)
    return first_only(record) if make is several_images else record


def _one_image(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    scene = compose(rng, pool)
    kind = questions.choose(IMAGE_QUESTIONS, rng)
    return DigitRecord(name, kind, [questions.SINGLE[kind](scene.digits, rng)], [DigitVisual((scene,))])


def _sums(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """One image with ``SUMS`` questions about sums."""
    record = step_by_step(name, rng, pool)
    digits = record.visuals[0].scenes[0].digits
    return replace(record, pairs=[questions.arithmetic(digits, rng) for _ in range(SUMS)])


def _text_only_record(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """A sum with its steps, or another question without an image."""
    del pool
    if rng.random() < 0.5:
        return DigitRecord(name, "arithmetic", [questions.sum_in_words(rng)])
    return DigitRecord(name, "text", [questions.text_only(rng)])


def _texts(name: str, rng: np.random.Generator, pool: Pool) -> DigitRecord:
    """Several questions without an image, because they are short."""
    del pool
    return DigitRecord(name, "text", [questions.text_only(rng) for _ in range(TEXTS)])
