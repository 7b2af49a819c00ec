"""Attention of a step whose rows are refreshes and cached spans side by side.

A refresh sees the keys of its own forward. A cached span writes its keys over those it replaces and sees all
of its sequence's: what the last refresh left, and its own. In the last layer, the wanted positions of each
span alone ask.

``CachedAttention`` goes from span to span. ``PagedFlash`` takes all cached spans in one call and all
refreshes in another, and reads keys where their pages are.

Shapes: T positions of the step, K of those whose keys are kept, S of a span, N of those asked for, L of a
sequence, H heads, D head width, R spans, P pages of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from lladav.decoding.memory import KVMemory, Slots
from lladav.decoding.sequence import Span
from lladav.model.attention import Attend, attend_once


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


def attention_of(memory: KVMemory, parts: Sequence[Part]) -> Attend:
    """Attention over a step's parts, end to end: flash where there is a GPU and nothing is masked."""
    half = memory.keys.dtype in (torch.bfloat16, torch.float16)
    flash = memory.keys.is_cuda and half and all(part.mask_SL is None for part in parts)
    return PagedFlash(memory, parts) if flash else CachedAttention(memory, parts)


class CachedAttention:
    """An ``Attend`` that takes one part after another."""

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


class PagedFlash:
    """An ``Attend`` by two calls of flash attention; cached parts come before refreshes."""

    def __init__(self, memory: KVMemory, parts: Sequence[Part]) -> None:
        """Raises ``ValueError`` for a cached part behind a refresh."""
        cached = [part for part in parts if not part.span.refresh]
        refreshes = [part for part in parts if part.span.refresh]
        if any(not part.span.refresh for part in parts[len(cached) :]):
            raise ValueError("cached parts come before refreshes")
        self._memory = memory
        self._pages = _Pages.of(cached, memory) if cached else None
        self._kept_K, self._places_K = _kept(parts, memory)
        self._positions = sum(len(part.span) for part in parts)
        self._cached = [_Group.of(lengths, memory) for lengths in _lengths(cached)]
        self._refreshes = [_Group.of(lengths, memory) for lengths in _lengths(refreshes)]

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        pools = self._memory.keys[layer], self._memory.values[layer]
        for pool, heads_THD in zip(pools, (key_THD, value_THD), strict=True):
            pool.flatten(0, 1).index_copy_(0, self._places_K, heads_THD[self._kept_K])
        last = len(query_THD) != self._positions
        cached, refreshes = self._cached[last], self._refreshes[last]
        grouped = query_THD.shape[1] != key_THD.shape[1]
        out = []
        if self._pages is not None:
            table = self._pages
            out.append(
                varlen_attn(
                    query_THD[: cached.total],
                    *pools,
                    cached.bounds,
                    table.bounds,
                    cached.longest,
                    table.longest,
                    seqused_k=table.lengths_R,
                    block_table=table.table_RP,
                    num_splits=1,
                    enable_gqa=grouped,
                )
            )
        if refreshes.total:
            whole = self._refreshes[0]
            keys, values = (x[len(x) - whole.total :] for x in (key_THD, value_THD))
            out.append(
                varlen_attn(
                    query_THD[cached.total :],
                    keys,
                    values,
                    refreshes.bounds,
                    whole.bounds,
                    refreshes.longest,
                    whole.longest,
                    num_splits=1,
                    enable_gqa=grouped,
                )
            )
        return torch.cat(out)


@dataclass(frozen=True)
class _Group:
    """Spans end to end: where each begins and ends, and how long the longest and all of them are."""

    bounds: Tensor
    longest: int
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int], memory: KVMemory) -> _Group:
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=memory.keys.device)
        return cls(bounds, max(lengths, default=0), sum(lengths))


@dataclass(frozen=True)
class _Pages:
    """Where the sequences of cached parts lie: a row of pages and a length each."""

    table_RP: Tensor
    lengths_R: Tensor
    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, parts: Sequence[Part], memory: KVMemory) -> _Pages:
        pages = [part.slots.pages if part.slots else [] for part in parts]
        widest = max(map(len, pages))
        lengths = [part.length for part in parts]

        def on_device(values: list) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=memory.keys.device)

        return cls(
            on_device([[*row, *[0] * (widest - len(row))] for row in pages]),
            on_device(lengths),
            on_device([0, *accumulate(lengths)]),
            max(lengths),
        )


def _lengths(parts: Sequence[Part]) -> tuple[list[int], list[int]]:
    """Queries of each part in all layers but the last, and in the last one."""
    return [len(part.span) for part in parts], [len(part.wanted_N) for part in parts]


def _kept(parts: Sequence[Part], memory: KVMemory) -> tuple[Tensor, Tensor]:
    """Positions of the step whose keys are kept, and where in the memory."""
    kept, places, start = [], [], 0
    for part in parts:
        if part.slots is not None:
            kept.append(torch.arange(start, start + len(part.span)))
            places.append(memory.places(part.slots, part.span.start, part.span.end))
        start += len(part.span)
    empty = torch.zeros(0, dtype=torch.long)
    device = memory.keys.device
    return torch.cat([empty, *kept]).to(device), torch.cat([empty, *places]).to(device)
