"""The layers of SigLIP's vision tower: patch embeddings and pre-norm transformer layers.

Modules have the names of the released checkpoint. ``SiglipVisionModel`` of transformers computes the same,
but importing it takes longer than importing torch, in every process.

Shapes: N views, C channels, P patches of a view, E width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from lladav.config.schema import VisionConfig
from lladav.model.recomputation import run_layer


class Siglip(nn.Module):
    """The first ``layers`` layers, without the pooling head.

    The final norm is not used. It is kept because released checkpoints contain it.
    """

    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(config)
        self.encoder = LayerStack(config, layers)
        self.post_layernorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Hidden states (N, P, E) after the last layer, before the final norm."""
        return self.encoder(self.embeddings(pixels_NCHW))


class PatchEmbeddings(nn.Module):
    """A linear projection of each patch, and a learned embedding of its position."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.width, kernel_size=size, stride=size)
        self.position_embedding = nn.Embedding((config.image_size // size) ** 2, config.width)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        patches_NPE = self.patch_embedding(pixels_NCHW).flatten(2).transpose(1, 2)
        positions_P = torch.arange(patches_NPE.shape[1], device=patches_NPE.device)
        return patches_NPE + self.position_embedding(positions_P)


class LayerStack(nn.Module):
    """The transformer layers."""

    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.activation_checkpointing = False

    def forward(self, hidden_NPE: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_NPE = run_layer(layer, hidden_NPE, recompute=self.activation_checkpointing)
        return hidden_NPE


class EncoderLayer(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.self_attn = ViewAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = GeluMLP(config)

    def forward(self, hidden_NPE: Tensor) -> Tensor:
        hidden_NPE = hidden_NPE + self.self_attn(self.layer_norm1(hidden_NPE))
        return hidden_NPE + self.mlp(self.layer_norm2(hidden_NPE))


class ViewAttention(nn.Module):
    """Attention among the patches of a view."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, hidden_NPE: Tensor) -> Tensor:
        query, key, value = (
            proj(hidden_NPE).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_NHPD = scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed_NHPD.transpose(1, 2).flatten(2))


class GeluMLP(nn.Module):
    """Two linear layers around the tanh form of GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, hidden_NPE: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(hidden_NPE), approximate="tanh"))
