"""Pretraining of the tiny language tower on text without images, with the objective of the curriculum.

Images are spelled as characters (``data.digits.corpus``). Samples with the base view alone come first,
because the tower learns to look up a digit there many times faster than among tiles, which follow. Batches of
text-only questions are mixed in, because sums between image samples are learned last and forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lladav.config.schema import Config
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.packing import PackedBatch
from lladav.inputs.samples import Sample
from lladav.model.attention import PackedAttention
from lladav.model.language import LanguageTower, rotary_factors
from lladav.model.llada_v import LLaDAV
from train.toy_towers.batches import EqualLengthBatches
from train.toy_towers.fit import Fit, fit
from train.toy_towers.lessons import Mixture, lessons
from train.toy_towers.noising import Noising
from train.toy_towers.samples import SampleWriter

SETTINGS = Fit(steps=640, batch=64, adam_lr=2e-3, muon_lr=0.015)
BASE_VIEW_SHARE = 0.6
"""Share of the steps with images as base views alone; images are tiled after them."""
SAMPLES = 10000
"""Number of image samples; each is written with base views and with tiles."""

TEXT_ONLY_EVERY = 4
"""Every fourth step has a batch of text-only samples."""
TEXT_ONLY_FACTOR = 2
"""Samples in a text-only batch, relative to other batches: they are short."""
TEXT_ONLY_SAMPLES = 20000

MIXED = Mixture(
    {
        "one_image": 0.40,
        "several_images": 0.15,
        "clip": 0.06,
        "sums": 0.22,
        "texts": 0.10,
        "caption": 0.05,
        "description": 0.02,
    }
)
TEXT_ONLY = Mixture({"drill": 1.0})


def pretrain(model: LLaDAV, tokenizer: ChatTokenizer, config: Config, scale: float = 1.0) -> float:
    """Train the language tower in place; return the seconds it took. ``scale`` is its relative length."""
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
        self._noise = Noising.of(config, tokenizer)
        writer = SampleWriter(tokenizer, model.geometry)
        mixed = list(lessons("lesson", round(SAMPLES * scale), seed, MIXED))
        text_only = lessons("drill", round(TEXT_ONLY_SAMPLES * scale), seed, TEXT_ONLY)
        settings = SETTINGS.scaled(scale)
        self._base_view_steps = BASE_VIEW_SHARE * settings.steps
        self._base_views = self._batches(
            [writer.spelled(each, base_view_only=True) for each in mixed], settings.batch
        )
        self._tiled = self._batches([writer.spelled(each) for each in mixed], settings.batch)
        self._text_only = self._batches(
            [writer.spelled(each) for each in text_only], TEXT_ONLY_FACTOR * settings.batch
        )

    def __call__(self, step: int) -> Tensor:
        batch = self._noise.batch(self._chosen(step), self._geometry, step)
        hidden_TW = self._hidden(batch.packed)
        return self._tower.lm_head(hidden_TW[batch.output_positions_M], batch.rows)[0]

    def _chosen(self, step: int) -> list[Sample]:
        """The samples of a step."""
        if step % TEXT_ONLY_EVERY == TEXT_ONLY_EVERY - 1:
            return self._text_only.at(step // TEXT_ONLY_EVERY)
        return (self._base_views if step < self._base_view_steps else self._tiled).at(step)

    def _batches(self, samples: Sequence[Sample], batch: int) -> EqualLengthBatches:
        return EqualLengthBatches(samples, self._geometry, batch, self._seed)

    def _hidden(self, packed: PackedBatch) -> Tensor:
        positions = torch.cat([torch.arange(length) for length in packed.lengths])
        rotary = rotary_factors(positions, self._tower.config)
        embeddings = self._tower.embed_tokens(packed.token_ids_T)
        attend = PackedAttention(packed.lengths, self._attention, packed.turns_T)
        return self._tower(embeddings, rotary, attend)
