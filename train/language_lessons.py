"""How the tiny language tower learns before the curriculum starts: by masked diffusion on text alone.

Pictures are written as characters (``data.digits.corpus``). Short samples come first, one question each and
no system prompt: looking a digit up is learned many times faster there. Longer conversations follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.digits import corpus, questions
from data.digits.glyphs import Pool, training_pool
from data.digits.records import Make, Picture, Record, captioned, clip, pick, records, step_by_step
from data.digits.scenes import compose
from lladav.diffusion.noise import Noise, Stratum, corrupt, draw_noise, supervised_counts
from lladav.images import ViewGeometry
from lladav.model.attention import PackedAttention
from lladav.model.language import LanguageTower, rotary_factors
from lladav.packing import PackedBatch, pack
from lladav.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, VisualKind
from lladav.schema import Supervise
from lladav.text import ChatTokenizer, encode_chat, encode_plain, messages_of
from train.fitting import Fit, fit, shuffled

SETTINGS = Fit(steps=750, batch=16, adam_lr=2e-3, muon_lr=0.02)
SHORT_STEPS, SHORT_BATCH = 300, 64
SHORT_SAMPLES, LONG_SAMPLES = 8000, 4000
EOS_TAIL = 16
MIN_MASK_RATIO = 0.35
"""Few masks teach little: with few answers to a sample, every step should hide several of their tokens."""


def teach(tower: LanguageTower, tokenizer: ChatTokenizer, geometry: ViewGeometry, seed: int) -> float:
    """Train the tower in place; returns the seconds it took."""
    start(tower, seed)
    loss = LessonLoss(tower, tokenizer, geometry, seed)
    named = [(f"language.{name}", parameter) for name, parameter in tower.named_parameters()]
    return fit("language tower", named, SETTINGS, loss)


def start(tower: LanguageTower, seed: int) -> None:
    """Weights with a variance for a tower this narrow; what ends a residual branch starts small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if parameter.ndim == 2:
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * tower.config.layers) ** -0.5 if ends else 1.0
                parameter.normal_(0.0, shrink * parameter.shape[1] ** -0.5, generator=generator)


class LessonLoss:
    """The loss of a step, as a function of the step."""

    def __init__(
        self, tower: LanguageTower, tokenizer: ChatTokenizer, geometry: ViewGeometry, seed: int
    ) -> None:
        writer = Writer(tokenizer, geometry)
        self._tower, self._geometry, self._seed, self._mask = tower, geometry, seed, tokenizer.ids.mask
        pool = training_pool()
        self._short = [writer.short(r) for r in records(_short, "short", SHORT_SAMPLES, seed, pool)]
        self._long = [writer.whole(r) for r in records(_long, "long", LONG_SAMPLES, seed, pool)]

    def __call__(self, step: int) -> Tensor:
        early = step < SHORT_STEPS
        samples, size = (self._short, SHORT_BATCH) if early else (self._long, SETTINGS.batch)
        chosen = shuffled(len(samples), size, step, self._seed)
        packed = pack([samples[i] for i in chosen], self._geometry)
        noises = self._noises(packed, [samples[i].id for i in chosen], step)
        noisy = corrupt(packed, noises, self._mask, 1 / size, chunk=4096)
        hidden_TW = self._hidden(noisy.packed)
        return self._tower.lm_head(hidden_TW[noisy.masked_M], noisy.rows)[0]

    def _noises(self, packed: PackedBatch, ids: Sequence[str], step: int) -> list[Noise]:
        counts = supervised_counts(packed)
        return [
            draw_noise(self._seed, step, name, count, MIN_MASK_RATIO, Stratum(index, len(ids)))
            for index, (name, count) in enumerate(zip(ids, counts, strict=True))
        ]

    def _hidden(self, packed: PackedBatch) -> Tensor:
        positions = torch.cat([torch.arange(length) for length in packed.lengths])
        rotary = rotary_factors(positions, self._tower.config)
        embeddings = self._tower.embed_tokens(packed.token_ids_T)
        return self._tower(embeddings, rotary, PackedAttention(packed.lengths))


class Writer:
    """Writes records as samples of text alone."""

    def __init__(self, tokenizer: ChatTokenizer, geometry: ViewGeometry) -> None:
        self._tokenizer, self._geometry = tokenizer, geometry
        signs = corpus.SIGNS + corpus.DOT + corpus.LINE_END
        self._ids = {sign: tokenizer.encode(sign)[0] for sign in signs}

    def whole(self, record: Record) -> Sample:
        """The record as the curriculum has it; most teach answers alone."""
        rng = np.random.default_rng(hash_of(record.id))
        if record.kind == "caption":
            return self._spelled(record, encode_plain(messages_of(record.conversations()), self._tokenizer))
        supervise = Supervise.answers if rng.random() < 0.9 else Supervise.template
        return self._spelled(record, self._chat(record, supervise, int(rng.integers(EOS_TAIL + 1))))

    def short(self, record: Record) -> Sample:
        """The record without its system turn."""
        rng = np.random.default_rng(hash_of(record.id))
        text = self._chat(record, Supervise.answers, int(rng.integers(EOS_TAIL // 2 + 1)))
        first_user = np.flatnonzero(text.input_ids == self._tokenizer.ids.start_header)[1]
        kept = np.r_[0, first_user : len(text.input_ids)]
        return self._spelled(record, Encoded(*(getattr(text, n)[kept] for n in _FIELDS)), squared=True)

    def _chat(self, record: Record, supervise: Supervise, tail: int) -> Encoded:
        return encode_chat(messages_of(record.conversations()), self._tokenizer, supervise, tail)

    def _spelled(self, record: Record, text: Encoded, squared: bool = False) -> Sample:
        """Each placeholder replaced by the characters of its picture."""
        kind = kind_of(record, squared)
        pieces, start = [], 0
        places = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
        for place, picture in zip(places.tolist(), record.pictures, strict=True):
            signs = corpus.picture_characters(picture, kind, self._geometry)
            pieces += [_part(text, start, place), _unsupervised([self._ids[sign] for sign in signs])]
            start = place + 1
        pieces.append(_part(text, start, len(text.input_ids)))
        return Sample(record.id, Encoded(*(np.concatenate([getattr(p, n) for p in pieces]) for n in _FIELDS)))


_FIELDS = ("input_ids", "labels", "turns", "answer")


def kind_of(record: Record, squared: bool) -> VisualKind:
    """How the record's pictures lie in the sequence."""
    if record.kind == "caption" or squared:
        return VisualKind.square
    if record.pictures and record.pictures[0].is_video:
        return VisualKind.video
    return VisualKind.padded if len(record.pictures) > 1 else VisualKind.tiled


def hash_of(name: str) -> int:
    """A number that follows from a record's name."""
    return int.from_bytes(name.encode()[-8:], "little")


def _part(text: Encoded, start: int, end: int) -> Encoded:
    return Encoded(*(getattr(text, name)[start:end] for name in _FIELDS))


def _unsupervised(ids: Sequence[int]) -> Encoded:
    values = np.array(ids, np.int32)
    return Encoded(values, np.full_like(values, IGNORED), np.zeros_like(values), np.zeros(len(ids), bool))


def _short(name: str, rng: np.random.Generator, pool: Pool) -> Record:
    """One question, mostly about a picture."""
    if rng.random() < 0.3:
        return Record(name, "text", [questions.text_only(rng)])
    scene = compose(rng, pool)
    kind = questions.choose(list(questions.SINGLE), rng)
    return Record(name, kind, [questions.SINGLE[kind](scene.digits, rng)], [Picture((scene,))])


def _long(name: str, rng: np.random.Generator, pool: Pool) -> Record:
    """Captions, many questions about one picture or several, sums, text alone, clips."""
    makes: tuple[Make, ...] = (captioned, _many_turns, _many_images, step_by_step, _many_texts, clip)
    return makes[pick(rng, (0.06, 0.44, 0.18, 0.12, 0.15, 0.05))](name, rng, pool)


def _many_turns(name: str, rng: np.random.Generator, pool: Pool) -> Record:
    scene = compose(rng, pool)
    kinds = [questions.choose(list(questions.SINGLE), rng) for _ in range(int(rng.integers(4, 9)))]
    pairs = [questions.SINGLE[kind](scene.digits, rng) for kind in kinds]
    return Record(name, kinds[0], pairs, [Picture((scene,))])


def _many_images(name: str, rng: np.random.Generator, pool: Pool) -> Record:
    scenes = [compose(rng, pool, int(rng.integers(1, 4))) for _ in range(2 + (rng.random() < 0.25))]
    digits = [scene.digits for scene in scenes]
    pairs = [questions.multi_image(digits, rng) for _ in range(int(rng.integers(3, 6)))]
    return Record(name, "multi-image", pairs, [Picture((scene,)) for scene in scenes])


def _many_texts(name: str, rng: np.random.Generator, pool: Pool) -> Record:
    del pool
    return Record(name, "text", [questions.text_only(rng) for _ in range(int(rng.integers(6, 12)))])
