"""Attention of a step whose rows are refreshes and cached spans side by side.

A refresh attends to the keys of its own forward. A cached span overwrites its keys in the KV cache and
attends to all keys of its sequence: its own, and those that the last refresh left. The last layer has queries
for the output positions of each span only.

``SpanwiseAttention`` attends span by span. ``PagedFlashAttention`` runs one call of flash attention for all
cached spans and another for all refreshes, and reads keys from their KV blocks without a copy.

Shapes: T positions of the step, K of those whose keys are cached, S of a span, N output positions of a span,
L positions of a sequence, H heads, D head width, R spans, C KV blocks of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lladav.config.schema import Attention, ModelConfig, Prediction
from lladav.decoding.adapters import BASE
from lladav.decoding.kv_cache import BlockTable, KVCache
from lladav.decoding.sequence import Span
from lladav.model.attention import CAUSAL, EVERYWHERE, Attend, attend_once, flash_attention


@dataclass(frozen=True)
class BranchSpan:
    """The span of one branch in a step.

    ``length`` is that of its whole sequence. ``output_N`` are the positions of the span whose hidden states
    are needed after the last layer. Without a block table no later step reads its keys and values.
    ``mask_SL`` is true where a position of the span attends to a position of the sequence; None: everywhere.
    Under ``causal`` the span ends where the sequence ends so far, its only output is its last position, and a
    position attends to those up to itself, without a mask. ``adapter`` is the number of its adapter.
    """

    span: Span
    length: int
    output_N: Tensor
    block_table: BlockTable | None
    mask_SL: Tensor | None = None
    causal: bool = False
    adapter: int = BASE


def has_mask(config: ModelConfig) -> bool:
    """Whether rows of a model attend by a mask. Causal spans of a next-token model need none."""
    return config.attention is not Attention.bidirectional and config.prediction is Prediction.masked


def attention_for(kv_cache: KVCache, spans: Sequence[BranchSpan]) -> Attend:
    """Attention over the spans of a step, which lie end to end."""
    if supports_flash_attention(kv_cache, spans):
        return PagedFlashAttention(kv_cache, spans)
    return SpanwiseAttention(kv_cache, spans)


def supports_flash_attention(kv_cache: KVCache, spans: Sequence[BranchSpan]) -> bool:
    """Whether flash attention can run the step: on a GPU, in half precision, without a mask."""
    half = kv_cache.keys.dtype in (torch.bfloat16, torch.float16)
    return kv_cache.keys.is_cuda and half and all(each.mask_SL is None for each in spans)


class SpanwiseAttention:
    """An ``Attend`` that runs one span after another."""

    def __init__(self, kv_cache: KVCache, spans: Sequence[BranchSpan]) -> None:
        self._kv_cache, self._spans = kv_cache, spans
        self._lengths = [len(each.span) for each in spans]
        self._output_lengths = [len(each.output_N) for each in spans]

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        # The last layer has fewer queries than keys.
        query_lengths = self._lengths if len(query_THD) == len(key_THD) else self._output_lengths
        queries = query_THD.split(query_lengths)
        heads = zip(queries, key_THD.split(self._lengths), value_THD.split(self._lengths), strict=True)
        return torch.cat(
            [self._attend(layer, each, *qkv) for each, qkv in zip(self._spans, heads, strict=True)]
        )

    def _attend(
        self, layer: int, span: BranchSpan, query_NHD: Tensor, key_SHD: Tensor, value_SHD: Tensor
    ) -> Tensor:
        keys, values = key_SHD, value_SHD
        if span.block_table is not None:
            self._kv_cache.write(layer, span.block_table, span.span.start, key_SHD, value_SHD)
            if not span.span.refresh:
                keys, values = self._kv_cache.read(layer, span.block_table, span.length)
        mask = span.mask_SL
        if mask is not None and len(query_NHD) != len(mask):
            mask = mask[span.output_N]
        # The last layer has one query of a causal span, which attends to all keys.
        return attend_once(query_NHD, keys, values, mask, causal=span.causal and len(query_NHD) > 1)


class PagedFlashAttention:
    """An ``Attend`` by two calls of flash attention; cached spans come before refreshes."""

    def __init__(self, kv_cache: KVCache, spans: Sequence[BranchSpan]) -> None:
        """Raises ``ValueError`` for a cached span after a refresh."""
        cached = [each for each in spans if not each.span.refresh]
        refreshes = [each for each in spans if each.span.refresh]
        if any(not each.span.refresh for each in spans[len(cached) :]):
            raise ValueError("cached spans come before refreshes")
        self._kv_cache = kv_cache
        self._positions = sum(len(each.span) for each in spans)
        self._cached_K, self._slot_K = _cache_writes(spans, kv_cache)
        self._tables = BatchBlockTables.of(cached, kv_cache) if cached else None
        self._cached = _query_lengths(cached, kv_cache)
        self._refreshes = _query_lengths(refreshes, kv_cache)
        self._causal = any(each.causal for each in refreshes)

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        # Cached spans read their own keys from the cache, so keys are written before attention.
        self._kv_cache.write_slots(layer, self._slot_K, key_THD[self._cached_K], value_THD[self._cached_K])
        is_last_layer = len(query_THD) != self._positions
        cached, refreshes = self._cached[is_last_layer], self._refreshes[is_last_layer]
        out = []
        if self._tables is not None:
            queries = query_THD[: cached.total]
            out.append(attend_to_blocks(queries, self._kv_cache, layer, cached, self._tables))
        if refreshes.total:
            keys, values = (x[self._cached[0].total :] for x in (key_THD, value_THD))
            # Queries are all positions, or the last one of each span, which attends to all keys.
            window = CAUSAL if self._causal and not is_last_layer else EVERYWHERE
            queries, lengths = query_THD[cached.total :], self._refreshes[0]
            out.append(_flash(queries, keys, values, refreshes, lengths, window_size=window))
        return torch.cat(out)


@dataclass(frozen=True)
class CumulativeLengths:
    """Segments that lie end to end: their bounds (R + 1, as ``cu_seqlens``), the longest, and the total."""

    bounds: Tensor
    longest: int
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> CumulativeLengths:
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(bounds, max(lengths, default=0), sum(lengths))


@dataclass(frozen=True)
class BatchBlockTables:
    """Block tables and lengths of the sequences of a step, as flash attention reads them."""

    table_RC: Tensor
    lengths_R: Tensor
    keys: CumulativeLengths

    @classmethod
    def of(cls, spans: Sequence[BranchSpan], kv_cache: KVCache) -> BatchBlockTables:
        tables = [each.block_table.blocks if each.block_table else [] for each in spans]
        # Short tables are padded with block 0: ``lengths_R`` keeps flash attention from reading it.
        longest = max(map(len, tables))
        padded = [[*table, *[0] * (longest - len(table))] for table in tables]
        lengths, device = [each.length for each in spans], kv_cache.keys.device
        return cls(
            torch.tensor(padded, dtype=torch.int32, device=device),
            torch.tensor(lengths, dtype=torch.int32, device=device),
            CumulativeLengths.of(lengths, device),
        )


def attend_to_blocks(
    query_THD: Tensor, kv_cache: KVCache, layer: int, queries: CumulativeLengths, tables: BatchBlockTables
) -> Tensor:
    """Flash attention of each segment of queries over the cached keys of its sequence."""
    return _flash(
        query_THD,
        kv_cache.keys[layer],
        kv_cache.values[layer],
        queries,
        tables.keys,
        seqused_k=tables.lengths_R,
        block_table=tables.table_RC,
    )


def _flash(
    query_THD: Tensor,
    keys: Tensor,
    values: Tensor,
    query_lengths: CumulativeLengths,
    key_lengths: CumulativeLengths,
    **settings: Any,
) -> Tensor:
    bounds = query_lengths.bounds, key_lengths.bounds
    longest = query_lengths.longest, key_lengths.longest
    # Batch invariance: with one split of the keys, rounding does not depend on the other rows.
    return flash_attention(query_THD, keys, values, *bounds, *longest, num_splits=1, **settings)


def _query_lengths(
    spans: Sequence[BranchSpan], kv_cache: KVCache
) -> tuple[CumulativeLengths, CumulativeLengths]:
    """Lengths of the queries in all layers but the last, and in the last layer."""
    device = kv_cache.keys.device
    return (
        CumulativeLengths.of([len(each.span) for each in spans], device),
        CumulativeLengths.of([len(each.output_N) for each in spans], device),
    )


def _cache_writes(spans: Sequence[BranchSpan], kv_cache: KVCache) -> tuple[Tensor, Tensor]:
    """Positions of the step (K) whose keys are cached, and their slots (K) in the cache."""
    empty = torch.zeros(0, dtype=torch.long)
    cached, slots, start = [empty], [empty], 0
    for each in spans:
        end = start + len(each.span)
        if each.block_table is not None:
            cached.append(torch.arange(start, end))
            slots.append(kv_cache.slots(each.block_table, each.span.start, each.span.end))
        start = end
    return torch.cat(cached).to(kv_cache.keys.device), torch.cat(slots).to(kv_cache.keys.device)
