"""A packed batch with the positions that the loss predicts: what every objective makes, and the model reads.

Shapes: T packed positions, M predicted positions, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lladav.diffusion.loss import TargetRows
from lladav.inputs.packing import PackedBatch


@dataclass(frozen=True)
class TrainingBatch:
    """The inputs of the model, the M predicted positions, and their targets and weights.

    ``predicted_M`` are ascending positions, ``sample_M`` is the index of the sample of each.
    """

    packed: PackedBatch
    predicted_M: Tensor
    sample_M: Tensor
    rows: TargetRows
    offset: int = 0
    """How far a predicted position lies behind the position whose hidden state predicts it."""
    levels_S: tuple[float, ...] | None = None
    """Noise level of each sample; None without noise."""

    @property
    def output_positions_M(self) -> Tensor:
        """The positions whose hidden states go through the LM head."""
        return self.predicted_M - self.offset

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The batch with its tensors on ``device``."""
        return replace(
            self,
            packed=self.packed.to(device),
            predicted_M=self.predicted_M.to(device),
            sample_M=self.sample_M.to(device),
            rows=self.rows.to(device),
        )


@dataclass(frozen=True)
class PredictedPositions:
    """A packed batch whose tokens at some positions are asked for: the model returns logits instead of a
    loss. ``output_positions_M`` are the positions whose hidden states go through the LM head."""

    packed: PackedBatch
    output_positions_M: Tensor
    rows: None = None

    def to(self, device: torch.device | str) -> PredictedPositions:
        """The batch with its tensors on ``device``."""
        return PredictedPositions(self.packed.to(device), self.output_positions_M.to(device))


def sample_of_positions(packed: PackedBatch) -> Tensor:
    """Return the index of the sample of each position (T)."""
    return torch.repeat_interleave(torch.arange(len(packed.lengths)), torch.tensor(packed.lengths))
