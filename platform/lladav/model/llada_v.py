"""LLaDA-V: vision tower and projector, whose visual tokens go into the language tower, and the training loss.

LLaMA3-V, the autoregressive baseline, is the same module with other settings.

Every forward pass runs the same modules in the same order, whatever the batch contains: otherwise the ranks
of a sharded model would deadlock.

Shapes: T packed positions, W language width, N views, M predicted rows, V visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lladav.config.schema import ModelConfig, ModelPart
from lladav.diffusion.training_batch import PredictedPositions, TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import PackedBatch
from lladav.inputs.samples import VisualShape
from lladav.model.attention import Attend, PackedAttention
from lladav.model.language import LanguageTower, rotary_factors
from lladav.model.projector import Projector
from lladav.model.vision import VisionTower, merge_views


class LLaDAV(nn.Module):
    """Vision tower, projector, newline and language tower as one module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = ViewGeometry.of(config)
        self.vision = VisionTower(config.vision)
        self.projector = Projector(config.vision.width, config.language.width)
        self.newline = nn.Parameter(torch.empty(config.language.width))
        self.language = LanguageTower(config.language)

    def forward(self, batch: TrainingBatch | PredictedPositions) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of a training batch, and the cross-entropy of each predicted row (M, no gradient).

        For ``PredictedPositions``: the logits (M, V).
        """
        hidden_TW = self.hidden(batch.packed)
        return self.language.lm_head(hidden_TW[batch.output_positions_M], batch.rows)

    def hidden(self, packed: PackedBatch, attend: Attend | None = None) -> Tensor:
        """Final hidden states (T, W) of a packed batch; ``attend`` defaults to the configured attention."""
        attend = attend or PackedAttention(packed.lengths, self.config.attention, packed.turns_T)
        rotary = rotary_factors(packed_positions(packed), self.config.language)
        return self.language(self.embed(packed), rotary, attend)

    def embed(self, packed: PackedBatch) -> Tensor:
        """Input embeddings (T, W): token embeddings, and visual tokens at the visual positions."""
        embeddings_TW = self.language.embed_tokens(packed.token_ids_T)
        visual_VW = self.visual_tokens(packed.views_NCHW, packed.shapes)
        return embeddings_TW.index_put((packed.visual_positions_V,), visual_VW)

    def visual_tokens(self, views_NCHW: Tensor, shapes: Sequence[VisualShape]) -> Tensor:
        """Visual tokens (V, W) of images and videos, newlines included, from their views in order."""
        features_NPW = self.projector(self._features(views_NCHW))
        return merge_views(features_NPW, shapes, self.newline, self.geometry)

    def part(self, part: ModelPart) -> list[nn.Parameter]:
        """The parameters of one part; as released, the newline belongs to the language tower."""
        if part is ModelPart.vision:
            return [p for n, p in self.vision.named_parameters() if "post_layernorm" not in n]
        if part is ModelPart.projector:
            return list(self.projector.parameters())
        return [self.newline, *self.language.parameters()]

    def vocabulary(self) -> list[nn.Parameter]:
        """The token embeddings and the LM head."""
        return [*self.language.embed_tokens.parameters(), *self.language.lm_head.parameters()]

    def checkpoint_activations(self, enabled: bool) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations."""
        self.vision.checkpoint_activations(enabled)
        self.language.activation_checkpointing = enabled

    def _features(self, views_NCHW: Tensor) -> Tensor:
        frozen = not any(p.requires_grad for p in self.vision.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.vision(views_NCHW)


def packed_positions(packed: PackedBatch) -> Tensor:
    """Position of each packed token within its sample (T)."""
    device = packed.token_ids_T.device
    return torch.cat([torch.arange(length, device=device) for length in packed.lengths])
