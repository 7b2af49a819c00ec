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
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from lladav.decoding.kv_cache import KVMemory, Slots
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
    """Attention over a step's parts, end to end."""
    return PagedFlash(memory, parts) if can_flash(memory, parts) else CachedAttention(memory, parts)


def can_flash(memory: KVMemory, parts: Sequence[Part]) -> bool:
    """Whether flash attention can do this: on a GPU, in half precision, where nothing is masked."""
    half = memory.keys.dtype in (torch.bfloat16, torch.float16)
    return memory.keys.is_cuda and half and all(part.mask_SL is None for part in parts)


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
        self._positions = sum(len(part.span) for part in parts)
        self._kept_K, self._places_K = _kept(parts, memory)
        self._pages = Pages.of(cached, memory) if cached else None
        self._cached, self._refreshes = _queries(cached, memory), _queries(refreshes, memory)

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        self._memory.write_at(layer, self._places_K, key_THD[self._kept_K], value_THD[self._kept_K])
        last = len(query_THD) != self._positions
        cached, refreshes = self._cached[last], self._refreshes[last]
        out = []
        if self._pages is not None:
            out.append(attend_to_pages(query_THD[: cached.total], self._memory, layer, cached, self._pages))
        if refreshes.total:
            keys, values = (x[self._cached[0].total :] for x in (key_THD, value_THD))
            out.append(_flash(query_THD[cached.total :], keys, values, refreshes, self._refreshes[0]))
        return torch.cat(out)


@dataclass(frozen=True)
class Lengths:
    """Runs of positions end to end: where each begins and ends (R + 1), and how long the longest is."""

    bounds: Tensor
    longest: int
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Lengths:
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(bounds, max(lengths, default=0), sum(lengths))


@dataclass(frozen=True)
class Pages:
    """Where sequences lie: a row of pages and a length each; behind a row's own pages are any others."""

    table_RP: Tensor
    lengths_R: Tensor
    keys: Lengths

    @classmethod
    def of(cls, parts: Sequence[Part], memory: KVMemory) -> Pages:
        own = [part.slots.pages if part.slots else [] for part in parts]
        widest = max(map(len, own))
        table = [[*row, *[0] * (widest - len(row))] for row in own]
        lengths, device = [part.length for part in parts], memory.keys.device
        return cls(
            torch.tensor(table, dtype=torch.int32, device=device),
            torch.tensor(lengths, dtype=torch.int32, device=device),
            Lengths.of(lengths, device),
        )


def attend_to_pages(
    query_THD: Tensor, memory: KVMemory, layer: int, queries: Lengths, pages: Pages
) -> Tensor:
    """Flash attention of each run of queries over its sequence's keys, read where they are."""
    return _flash(
        query_THD,
        memory.keys[layer],
        memory.values[layer],
        queries,
        pages.keys,
        seqused_k=pages.lengths_R,
        block_table=pages.table_RP,
    )


def _flash(
    query_THD: Tensor, keys: Tensor, values: Tensor, queries: Lengths, of_keys: Lengths, **paged: Any
) -> Tensor:
    """One split of the keys whatever their number, so that it rounds alike in any company."""
    out = varlen_attn(
        query_THD,
        keys,
        values,
        queries.bounds,
        of_keys.bounds,
        queries.longest,
        of_keys.longest,
        num_splits=1,
        enable_gqa=query_THD.shape[-2] != keys.shape[-2],
        **paged,
    )
    return out if isinstance(out, Tensor) else out[0]


def _queries(parts: Sequence[Part], memory: KVMemory) -> tuple[Lengths, Lengths]:
    """Those of all layers but the last, and those of the last one."""
    device = memory.keys.device
    return (
        Lengths.of([len(part.span) for part in parts], device),
        Lengths.of([len(part.wanted_N) for part in parts], device),
    )


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
