"""Paged flash attention and spanwise attention give the same result, for spans of any kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lladav.config.schema import LanguageConfig
from lladav.decoding import paged_attention
from lladav.decoding.kv_cache import BLOCK_SIZE, BlockTable, KVCache, kv_block_bytes
from lladav.decoding.paged_attention import BranchSpan, PagedFlashAttention, SpanwiseAttention
from lladav.decoding.sequence import Span
from lladav.model.attention import attend_once

CONFIG = LanguageConfig(vocab_size=8, width=256, mlp_width=8, layers=2, heads=4, kv_heads=2)
HEAD = 64
STEP = [
    (Span(300, 350, False), 350, [3, 1], 7),
    (Span(20, 60, False), 90, [5], 40),
    (Span(0, 280, True), 280, [0, 4], 12),
    (Span(0, 33, True), 33, None, 33),
]
"""Span, sequence length, KV blocks and number of output positions of each branch."""


def flash_on_a_cpu(
    query_THD: Tensor,
    keys: Tensor,
    values: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int,
    enable_gqa: bool,
) -> Tensor:
    """What the documentation of ``varlen_attn`` says."""
    assert num_splits == 1
    assert enable_gqa
    assert longest_query == int(query_bounds.diff().max())
    assert longest_key == int(key_bounds.diff().max())
    out = []
    for row, queries in enumerate(query_THD.split(query_bounds.diff().tolist())):
        if block_table is None:
            own = slice(int(key_bounds[row]), int(key_bounds[row + 1]))
            out.append(attend_once(queries, keys[own], values[own], None))
        else:
            assert seqused_k is not None
            blocks = block_table[row].long()
            own_keys, own_values = (x[blocks].flatten(0, 1)[: int(seqused_k[row])] for x in (keys, values))
            out.append(attend_once(queries, own_keys, own_values, None))
    return torch.cat(out)


def cache_of(dtype: torch.dtype, device: str) -> KVCache:
    cache = KVCache(CONFIG, 6 * kv_block_bytes(CONFIG, dtype, BLOCK_SIZE), dtype, torch.device(device))
    fill = torch.Generator().manual_seed(1)
    for pool in (cache.keys, cache.values):
        pool.copy_(torch.randn(pool.shape, generator=fill))
    return cache


def spans_of(device: str) -> list[BranchSpan]:
    return [
        BranchSpan(
            span,
            length,
            torch.arange(len(span) - outputs, len(span), device=device),
            None if blocks is None else BlockTable(blocks),
        )
        for span, length, blocks, outputs in STEP
    ]


def heads_of(count: int, heads: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    drawn = torch.randn(count, heads, HEAD, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def assert_equal_attention(dtype: torch.dtype, device: str, tolerance: float) -> None:
    """Compare results in a layer with all queries and in the last layer, and the KV caches afterwards."""
    total = sum(len(span) for span, *_ in STEP)
    outputs = sum(count for *_, count in STEP)
    found, caches = [], []
    for implementation in (SpanwiseAttention, PagedFlashAttention):
        caches.append(cache_of(dtype, device))
        attend = implementation(caches[-1], spans_of(device))
        found.append(
            [
                attend(
                    layer,
                    heads_of(queries, 4, 2, dtype, device),
                    heads_of(total, 2, 3, dtype, device),
                    heads_of(total, 2, 4, dtype, device),
                )
                for layer, queries in enumerate((total, outputs))
            ]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    one, other = caches
    assert one.keys.equal(other.keys)
    assert one.values.equal(other.values)


def test_paged_flash_equals_spanwise_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_attention, "varlen_attn", flash_on_a_cpu)
    assert_equal_attention(torch.float32, "cpu", 1e-5)


@pytest.mark.gpu
def test_paged_flash_equals_spanwise_attention_on_a_gpu() -> None:
    assert_equal_attention(torch.bfloat16, "cuda", 2e-2)


def test_cached_spans_come_first() -> None:
    cache = cache_of(torch.float32, "cpu")
    with pytest.raises(ValueError, match="before"):
        PagedFlashAttention(cache, spans_of("cpu")[::-1])
