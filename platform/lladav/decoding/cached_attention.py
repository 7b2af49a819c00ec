"""Attention of a step whose rows are refreshes and cached spans side by side.

A refresh sees the keys of its own forward. A cached span writes its keys over those it replaces and sees all
of its sequence's: what the last refresh left, and its own.

In the last layer, the wanted positions of each span alone ask.

Shapes: T positions of the step, S of a span, N of those asked for, L of a sequence, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.decoding.memory import KVMemory, Slots
from lladav.decoding.sequence import Span
from lladav.model.attention import attend_once


@dataclass(frozen=True)
class Part:
    """The span of a sequence of ``length`` positions, which of the span are wanted, where its keys are kept,
    and who of them it may see.
    """

    span: Span
    length: int
    wanted_N: Tensor
    slots: Slots | None
    mask_SL: Tensor | None = None


class CachedAttention:
    """An ``Attend`` for the parts of a step, end to end."""

    def __init__(self, memory: KVMemory, parts: Sequence[Part]) -> None:
        self._memory, self._parts = memory, parts
        self._lengths = [len(part.span) for part in parts]
        self._wanted = [len(part.wanted_N) for part in parts]

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        lengths = self._lengths if len(query_THD) == len(key_THD) else self._wanted
        queries = query_THD.split(lengths)
        heads = zip(queries, key_THD.split(self._lengths), value_THD.split(self._lengths), strict=True)
        return torch.cat([self._attend(layer, part, *x) for part, x in zip(self._parts, heads, strict=True)])

    def _attend(
        self, layer: int, part: Part, query_NHD: Tensor, key_SHD: Tensor, value_SHD: Tensor
    ) -> Tensor:
        keys, values = key_SHD, value_SHD
        if part.slots is not None:
            self._memory.write(layer, part.slots, part.span.start, key_SHD, value_SHD)
            if not part.span.refresh:
                keys, values = self._memory.read(layer, part.slots, part.length)
        mask = part.mask_SL
        if mask is not None and len(query_NHD) != len(mask):
            mask = mask[part.wanted_N]
        return attend_once(query_NHD, keys, values, mask)
