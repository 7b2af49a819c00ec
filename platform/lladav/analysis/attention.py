"""Attention statistics of the paper: attention to later positions, entropy and attention sinks (Eq. 7-9).

Attention weights are measured during a forward pass, for one head of one sample at a time: the weights of a
whole layer do not fit into memory for thousands of positions.

Shapes: T packed positions, L positions of one sample, H heads, D head width, K layers, S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.inputs.packing import PackedBatch
from lladav.model.attention import PackedAttention
from lladav.model.llada_v import LLaDAV


@dataclass(frozen=True)
class AttentionMetrics:
    """Statistics of each layer (K) or sample (S), averaged over heads and the other dimension.

    ``future_looking_K`` is the attention mass on later positions in [0, 1] (Eq. 7), ``entropy_bits_K`` the
    entropy of a position's attention (Eq. 8), ``sink_score_S`` the mean attention that the first position
    receives (Eq. 9), ``sink_S`` whether that is the maximum over positions and above sigma.
    ``first_is_largest`` is the share of heads in which the first position receives the most.
    """

    future_looking_K: Tensor
    entropy_bits_K: Tensor
    sink_score_S: Tensor
    sink_S: Tensor
    first_is_largest: float


@torch.no_grad()
def attention_metrics(model: LLaDAV, packed: PackedBatch, sigma: float) -> AttentionMetrics:
    """Measure the attention of a model on a packed batch.

    The first position of a sample is a sink if it has the highest score and that is above ``sigma``.
    """
    attention = PackedAttention(packed.lengths, model.config.attention, packed.turns_T)
    measuring = _MeasuringAttention(attention, model.config.language.layers)
    model.hidden(packed, measuring)
    return measuring.metrics(sigma)


def attention_weights(query_LD: Tensor, key_LD: Tensor, mask_LL: Tensor | None) -> Tensor:
    """Float32 attention weights (L, L) of one head; row i has the weights of query position i."""
    scores_LL = query_LD.float() @ key_LD.float().T / query_LD.shape[-1] ** 0.5
    if mask_LL is not None:
        scores_LL = scores_LL.masked_fill(~mask_LL.to(scores_LL.device), -torch.inf)
    return scores_LL.softmax(-1)


def future_looking(weights_LL: Tensor) -> Tensor:
    """Mean over positions of the attention mass on later positions (Eq. 7)."""
    return weights_LL.triu(1).sum(-1).mean()


def entropy_bits(weights_LL: Tensor) -> Tensor:
    """Mean over positions of the entropy of their attention in bits (Eq. 8)."""
    return torch.special.entr(weights_LL).sum(-1).mean() / math.log(2)


def attention_received(weights_LL: Tensor) -> Tensor:
    """Mean attention (L) that each position receives: the sink score (Eq. 9)."""
    return weights_LL.mean(0)


class _MeasuringAttention:
    """An ``Attend`` that returns the result of another one and measures its attention weights."""

    def __init__(self, attention: PackedAttention, layers: int) -> None:
        self._attention = attention
        self._future_K = torch.zeros(layers)
        self._entropy_K = torch.zeros(layers)
        self._received = [torch.zeros(length) for length in attention.lengths]
        self._first_is_largest: list[bool] = []

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        heads, shared = query_THD.shape[1], query_THD.shape[1] // key_THD.shape[1]
        samples = zip(*(x.split(self._attention.lengths) for x in (query_THD, key_THD)), strict=True)
        for sample, (query_LHD, key_LHD) in enumerate(samples):
            for head in range(heads):
                pair = query_LHD[:, head], key_LHD[:, head // shared]
                weights_LL = attention_weights(*pair, self._attention.masks[sample])
                self._measure(layer, sample, weights_LL, heads)
        return self._attention(layer, query_THD, key_THD, value_THD)

    def metrics(self, sigma: float) -> AttentionMetrics:
        score_S = torch.stack([scores[0] for scores in self._received])
        largest_S = torch.tensor([bool(scores.argmax() == 0) for scores in self._received])
        share = sum(self._first_is_largest) / len(self._first_is_largest)
        return AttentionMetrics(
            self._future_K, self._entropy_K, score_S, largest_S & (score_S > sigma), share
        )

    def _measure(self, layer: int, sample: int, weights_LL: Tensor, heads: int) -> None:
        equal_share = len(self._received) * heads
        self._future_K[layer] += future_looking(weights_LL).cpu() / equal_share
        self._entropy_K[layer] += entropy_bits(weights_LL).cpu() / equal_share
        scores_L = attention_received(weights_LL).cpu()
        self._received[sample] += scores_L / (heads * len(self._future_K))
        self._first_is_largest.append(bool(scores_L.argmax() == 0))
