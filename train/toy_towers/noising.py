"""Batches with noise for the training of the tiny model and its language tower: no Ray, no ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lladav.config.schema import Config
from lladav.diffusion.masking import Stratum
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample

CHUNK = 4096
"""Rows that are projected to the vocabulary at a time."""


@dataclass(frozen=True)
class Noising:
    """The objective of a run, with noise levels that are spread over each batch."""

    objective: Objective

    @classmethod
    def of(cls, config: Config, tokenizer: ChatTokenizer) -> Noising:
        settings = replace(config.objective, stratified=True)
        return cls(Objective(settings, tokenizer.ids, config.train.seed, CHUNK))

    def batch(self, samples: Sequence[Sample], geometry: ViewGeometry, step: int) -> TrainingBatch:
        """The batch of a step; its loss is the mean over the samples."""
        return self.objective.batch(
            pack(samples, geometry),
            [sample.id for sample in samples],
            step,
            [Stratum(index, len(samples)) for index in range(len(samples))],
            scale=1 / len(samples),
        )
