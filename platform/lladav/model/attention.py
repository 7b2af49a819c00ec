"""Attention within the samples of a packed batch.

A position never attends to another sample. The language tower passes the projected and rotated heads of each
layer to an ``Attend`` and knows nothing of masks or caches; the decoding engine has its own ``Attend`` with a
KV cache.

Shapes: T packed positions, H heads, D head width, L positions of one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lladav.config.schema import Attention

EVERYWHERE, CAUSAL = (-1, -1), (-1, 0)
"""Positions before and after a query that flash attention attends to; -1 is no limit."""


class Attend(Protocol):
    """Attention of one layer: from (T, H, D) queries, keys and values to (T, H, D).

    The last layer has fewer queries than keys if the tower computes only some output positions.
    """

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor: ...


class EqualSamples(NamedTuple):
    """Neighbouring samples of equal length, whose attention is one call."""

    samples: int
    length: int
    mask: Tensor | None = None


class PackedAttention:
    """Attention within each sample of a packed batch, without a cache. Use one object for a forward pass."""

    def __init__(
        self,
        lengths: Sequence[int],
        pattern: Attention = Attention.bidirectional,
        turns_T: Tensor | None = None,
    ) -> None:
        if pattern is Attention.dialogue_causal and turns_T is None:
            raise ValueError("dialogue-causal attention needs the turn of each position")
        self.lengths = list(lengths)
        self._pattern, self._turns_T = pattern, turns_T
        self._bounds: Tensor | None = None

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """The mask of each sample, as from ``segment_mask``."""
        turns = self._turns_T.split(self.lengths) if self._turns_T is not None else [None] * len(self.lengths)
        return [
            segment_mask(self._pattern, length, turns_L)
            for length, turns_L in zip(self.lengths, turns, strict=True)
        ]

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:  # noqa: ARG002
        heads = query_THD, key_THD, value_THD
        if self._flash(query_THD):
            return self._varlen(*heads)
        sizes = [run.samples * run.length for run in self._runs]
        parts = zip(*(x.split(sizes) for x in heads), self._runs, strict=True)
        return torch.cat(
            [attend_once(q, k, v, run.mask, self._is_causal, run.samples) for q, k, v, run in parts]
        )

    @cached_property
    def _runs(self) -> list[EqualSamples]:
        """Neighbours of equal length; the samples themselves if each has a mask of its own."""
        if self._pattern is Attention.dialogue_causal:
            return [EqualSamples(1, *each) for each in zip(self.lengths, self.masks, strict=True)]
        return [EqualSamples(len(list(same)), length) for length, same in groupby(self.lengths)]

    def bounds(self, device: torch.device) -> Tensor:
        """Start of each sample and end of the last (int32), copied to the device once."""
        if self._bounds is None:
            self._bounds = torch.tensor([0, *self.lengths]).cumsum(0, dtype=torch.int32).to(device)
        return self._bounds

    def _flash(self, query_THD: Tensor) -> bool:
        half = query_THD.dtype in (torch.bfloat16, torch.float16)
        return query_THD.is_cuda and half and self._pattern is not Attention.dialogue_causal

    @property
    def _is_causal(self) -> bool:
        return self._pattern is Attention.causal

    def _varlen(self, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        bounds = self.bounds(query_THD.device)
        longest = max(self.lengths)
        window = CAUSAL if self._is_causal else EVERYWHERE
        return flash_attention(
            query_THD, key_THD, value_THD, bounds, bounds, longest, longest, window_size=window
        )


def flash_attention(query_THD: Tensor, key: Tensor, value: Tensor, *bounds: Any, **settings: Any) -> Tensor:
    """Flash attention over packed sequences on a GPU: (T, H, D), by ``varlen_attn`` of torch.

    Keys and values may have fewer heads than queries.
    """
    from torch.nn.attention.varlen import varlen_attn  # imports torch's compiler, which takes a second

    enable_gqa = query_THD.shape[-2] != key.shape[-2]
    out = varlen_attn(query_THD, key, value, *bounds, enable_gqa=enable_gqa, **settings)
    return out if isinstance(out, Tensor) else out[0]


def segment_mask(pattern: Attention, length: int, turns_L: Tensor | None) -> Tensor | None:
    """Boolean (L, L) mask of one sample, True where position i attends to position j; None for no mask."""
    if pattern is Attention.causal:
        device = turns_L.device if turns_L is not None else None
        return torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if pattern is Attention.dialogue_causal and turns_L is not None:
        return turns_L[:, None] >= turns_L[None, :]
    return None


def attend_once(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    mask: Tensor | None,
    causal: bool = False,
    samples: int = 1,
) -> Tensor:
    """Attention of one sample, or of ``samples`` equally long ones; key and value heads may be grouped.

    ``causal`` takes the place of a mask.
    """
    heads = (query_THD, key_THD, value_THD)
    query, key, value = (x.unflatten(0, (samples, len(x) // samples)).transpose(1, 2) for x in heads)
    mask = mask.to(query.device) if mask is not None else None
    grouped = query.shape[1] != key.shape[1]
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return out.transpose(1, 2).flatten(0, 1)
