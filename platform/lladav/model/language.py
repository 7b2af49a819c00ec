"""The language tower: the transformer of LLaDA and Llama over packed embeddings.

In top-down order: tower, layer, attention, MLP, norm, rotary embedding. The caller passes an ``Attend``; the
tower never builds a mask. Modules have the names of the released (renamed) checkpoint.

Shapes: T packed positions, W width, H heads, D head width, V vocabulary, M rows given to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from lladav.config.schema import LanguageConfig
from lladav.diffusion.loss import TargetRows, fused_cross_entropy
from lladav.model.attention import Attend
from lladav.model.recomputation import run_layer


class LanguageTower(nn.Module):
    """Token embeddings, transformer layers, final norm and vocabulary head."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = VocabularyHead(config)
        self.activation_checkpointing = False

    def forward(
        self, embeddings_TW: Tensor, rotary: Rotary, attend: Attend, output_positions_M: Tensor | None = None
    ) -> Tensor:
        """Hidden states (T, W) after the final norm.

        With ``output_positions_M``, only the hidden states of these positions (M, W): the last layer computes
        no others.
        """
        hidden = embeddings_TW
        for layer in self.layers[:-1]:
            hidden = self._run(layer, hidden, rotary, attend)
        return self.norm(self._run(self.layers[-1], hidden, rotary, attend, output_positions_M))

    def _run(self, layer: nn.Module, *inputs: Any) -> Tensor:
        return run_layer(layer, *inputs, recompute=self.activation_checkpointing)


class Layer(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = SelfAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, hidden_TW: Tensor, rotary: Rotary, attend: Attend, output_positions_M: Tensor | None = None
    ) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(hidden_TW), rotary, attend, output_positions_M)
        hidden = (hidden_TW if output_positions_M is None else hidden_TW[output_positions_M]) + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class SelfAttention(nn.Module):
    """Projections around an ``Attend``; no biases."""

    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_width = config.width // config.heads
        key_width = config.kv_heads * self.head_width
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, key_width, bias=False)
        self.v_proj = nn.Linear(config.width, key_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, hidden_TW: Tensor, rotary: Rotary, attend: Attend, output_positions_M: Tensor | None = None
    ) -> Tensor:
        query_hidden, query_rotary = hidden_TW, rotary
        if output_positions_M is not None:
            query_hidden, query_rotary = hidden_TW[output_positions_M], rotary[output_positions_M]
        query, key, value = (
            proj(hidden).unflatten(-1, (-1, self.head_width))
            for proj, hidden in (
                (self.q_proj, query_hidden),
                (self.k_proj, hidden_TW),
                (self.v_proj, hidden_TW),
            )
        )
        mixed = attend(self.index, apply_rotary(query, query_rotary), apply_rotary(key, rotary), value)
        return self.o_proj(mixed.flatten(-2))


class SwiGLU(nn.Module):
    """Gated MLP; no biases."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, hidden_TW: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(hidden_TW)) * self.up_proj(hidden_TW))


class VocabularyHead(nn.Module):
    """The projection to the vocabulary, not tied to the token embeddings.

    The loss of all predicted rows is one forward call, however many chunks they need, so that every rank
    gathers a sharded weight exactly once.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))

    def forward(self, hidden_MW: Tensor, rows: TargetRows | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (M, V). With ``rows``: the weighted loss and the cross-entropy of each row (M)."""
        if rows is None:
            return linear(hidden_MW, self.weight)
        return fused_cross_entropy(hidden_MW, self.weight, rows)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_TW: Tensor) -> Tensor:
        exact = hidden_TW.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (exact * scale).to(hidden_TW.dtype)


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines (T, 1, D) in float32, in the half-rotation layout."""

    cos: Tensor
    sin: Tensor

    def __getitem__(self, positions_M: Tensor) -> Rotary:
        return Rotary(self.cos[positions_M], self.sin[positions_M])


def rotary_factors(positions_T: Tensor, config: LanguageConfig) -> Rotary:
    """The rotary embedding of integer positions."""
    width = config.width // config.heads
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions_T.device)
    frequencies = 1.0 / config.rope_theta ** (steps / width)
    angles_TD = (positions_T[:, None].float() * frequencies).repeat(1, 2)
    return Rotary(angles_TD.cos()[:, None], angles_TD.sin()[:, None])


def apply_rotary(heads_THD: Tensor, rotary: Rotary) -> Tensor:
    """Apply the rotary embedding (RoPE) to queries or keys, in float32 as LLaDA (``rope_full_precision``)."""
    exact = heads_THD.float()
    first, second = exact.chunk(2, dim=-1)
    rotated = exact * rotary.cos + torch.cat((-second, first), dim=-1) * rotary.sin
    return rotated.to(heads_THD.dtype)
