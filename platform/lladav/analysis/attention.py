"""Attention statistics of the paper: attention to later positions, entropy and attention sinks (Eq. 7-9).

A forward pass yields the queries and keys of each layer. The attention weights are computed from them a
second time, in chunks of query positions: at 8B size the weights of a single layer take 2 GB for 4,000
positions. Besides the forward pass, a measurement takes about ``3 * 4 * CHUNK_WEIGHTS`` bytes for a chunk
(scores, weights and one temporary copy) and a float32 copy of the keys of one sample and layer.

Shapes: T packed positions, L positions of one sample, C query positions of a chunk, H heads, G key heads,
D head width, K layers, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lladav.inputs.packing import PackedBatch
from lladav.model.attention import PackedAttention
from lladav.model.llada_v import LLaDAV

CHUNK_WEIGHTS = 2**24
"""Attention weights of a chunk, over all heads; a chunk has at least one query position."""


@dataclass(frozen=True)
class AttentionMetrics:
    """Statistics of each sample and layer, averaged over heads and positions."""

    future_looking_SK: Tensor
    """Attention mass on later positions, in [0, 1] (Eq. 7)."""
    entropy_bits_SK: Tensor
    """Entropy of a position's attention (Eq. 8)."""
    sink_score_SK: Tensor
    """Mean attention that the first position receives (Eq. 9)."""
    first_is_largest_SK: Tensor
    """Share of the heads in which no position receives more attention than the first."""
    first_is_largest_S: Tensor
    """Whether no position receives more attention than the first, averaged over layers and heads."""

    @property
    def sink_score_S(self) -> Tensor:
        """The sink score of each sample."""
        return self.sink_score_SK.mean(1)

    def sink_S(self, sigma: float) -> Tensor:
        """Whether the first position is a sink: it has the highest score, and that is above ``sigma``."""
        return self.first_is_largest_S & (self.sink_score_S > sigma)

    @classmethod
    def concatenate(cls, parts: Sequence[AttentionMetrics]) -> AttentionMetrics:
        """The metrics of all samples of several measurements."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@torch.no_grad()
def attention_metrics(
    model: LLaDAV, packed: PackedBatch, chunk_weights: int = CHUNK_WEIGHTS
) -> AttentionMetrics:
    """Measure the attention of a model on a packed batch; ``chunk_weights`` bounds the memory."""
    attention = PackedAttention(packed.lengths, model.config.attention, packed.turns_T)
    measuring = _MeasuringAttention(attention, model.config.language.layers, chunk_weights)
    model.hidden(packed, measuring)
    return measuring.metrics()


def attention_weights(query_CHD: Tensor, key_LGD: Tensor, mask_CL: Tensor | None = None) -> Tensor:
    """Float32 attention weights (H, C, L) of query positions; key heads may be grouped."""
    shared = query_CHD.shape[1] // key_LGD.shape[1]
    # The query heads that share a key head lie side by side: (G, shared * C, D).
    scaled_CHD = query_CHD.float() / query_CHD.shape[-1] ** 0.5
    query_GQD = scaled_CHD.unflatten(1, (-1, shared)).permute(1, 2, 0, 3).flatten(1, 2)
    scores_GQL = query_GQD @ key_LGD.float().permute(1, 2, 0)
    scores_HCL = scores_GQL.view(query_CHD.shape[1], query_CHD.shape[0], key_LGD.shape[0])
    if mask_CL is not None:
        scores_HCL.masked_fill_(~mask_CL.to(scores_HCL.device), -torch.inf)
    return scores_HCL.softmax(-1)


def future_looking(weights_HCL: Tensor, first: int = 0) -> Tensor:
    """Attention mass (H, C) on later positions (Eq. 7); ``first`` is the position of the first query."""
    return weights_HCL.triu(first + 1).sum(-1)


def entropy_bits(weights_HCL: Tensor) -> Tensor:
    """Entropy (H, C) of the attention of each query position in bits (Eq. 8)."""
    return torch.special.entr(weights_HCL).sum(-1) / math.log(2)


def attention_received(weights_HCL: Tensor) -> Tensor:
    """Attention (H, L) that each position receives from the query positions, summed.

    Divided by L after the last query position, it is the sink score (Eq. 9).
    """
    return weights_HCL.sum(-2)


class _MeasuringAttention:
    """An ``Attend`` that returns the result of another one and measures its attention weights."""

    def __init__(self, attention: PackedAttention, layers: int, chunk_weights: int) -> None:
        self._attention = attention
        self._chunk_weights = chunk_weights
        samples = len(attention.lengths)
        self._future_SK, self._entropy_SK, self._sink_SK, self._largest_SK = torch.zeros(4, samples, layers)
        self._received = [torch.zeros(length) for length in attention.lengths]
        """By sample: the attention (L) that each position receives, summed over layers."""

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        samples = zip(*(x.split(self._attention.lengths) for x in (query_THD, key_THD)), strict=True)
        for sample, (query_LHD, key_LGD) in enumerate(samples):
            self._measure(layer, sample, query_LHD, key_LGD.float())
        return self._attention(layer, query_THD, key_THD, value_THD)

    def metrics(self) -> AttentionMetrics:
        """The metrics after the forward pass."""
        largest_S = torch.stack([_first_is_largest(received_L) for received_L in self._received])
        return AttentionMetrics(self._future_SK, self._entropy_SK, self._sink_SK, self._largest_SK, largest_S)

    def _measure(self, layer: int, sample: int, query_LHD: Tensor, key_LGD: Tensor) -> None:
        length, heads, _ = query_LHD.shape
        received_HL = query_LHD.new_zeros(heads, length, dtype=torch.float32)
        future = entropy = received_HL.new_zeros(())
        for first, weights_HCL in self._chunks(sample, query_LHD, key_LGD):
            future = future + future_looking(weights_HCL, first).sum()
            entropy = entropy + entropy_bits(weights_HCL).sum()
            received_HL += attention_received(weights_HCL) / length
        self._future_SK[sample, layer] = future / (heads * length)
        self._entropy_SK[sample, layer] = entropy / (heads * length)
        self._sink_SK[sample, layer] = received_HL[:, 0].mean()
        self._largest_SK[sample, layer] = _first_is_largest(received_HL).float().mean()
        self._received[sample] += received_HL.mean(0).cpu()

    def _chunks(self, sample: int, query_LHD: Tensor, key_LGD: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first query position and the weights (H, C, L) of each chunk of a sample."""
        length, heads, _ = query_LHD.shape
        mask_LL = self._attention.masks[sample]
        rows = max(1, self._chunk_weights // (heads * length))
        for first in range(0, length, rows):
            chunk = slice(first, first + rows)
            mask_CL = None if mask_LL is None else mask_LL[chunk]
            yield first, attention_weights(query_LHD[chunk], key_LGD, mask_CL)


def _first_is_largest(received: Tensor) -> Tensor:
    """Whether no position of the last dimension receives more attention than the first."""
    return received[..., 0] == received.amax(-1)
