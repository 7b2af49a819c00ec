"""From a packed batch to what the loss predicts, by the kind of the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lladav.config.schema import ObjectiveConfig, Prediction, TokenIds
from lladav.diffusion.masking import Stratum, corrupt, draw_noises
from lladav.diffusion.next_token import shift
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import PackedBatch


@dataclass(frozen=True)
class Objective:
    """The objective of a run; ``chunk`` rows are projected to the vocabulary at a time."""

    settings: ObjectiveConfig
    tokens: TokenIds
    seed: int
    chunk: int

    def batch(
        self,
        packed: PackedBatch,
        sample_ids: Sequence[str],
        epoch: int,
        strata: Sequence[Stratum],
        scale: float,
    ) -> TrainingBatch:
        """Return the training batch of packed samples.

        With ``scale`` = 1 / samples of the global batch, the sum of the losses of all its parts is the mean
        loss of its samples. ``strata`` are those of the samples, read if the objective is stratified.
        """
        settings = self.settings
        if settings.kind is Prediction.next_token:
            return shift(packed, scale, self.chunk)
        noises = draw_noises(
            packed,
            sample_ids,
            self.seed,
            epoch,
            self.tokens.eos,
            settings.min_mask_ratio,
            strata if settings.stratified else None,
            settings.block_length,
        )
        return corrupt(packed, noises, self.tokens.mask_id, scale, self.chunk)
