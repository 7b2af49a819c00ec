"""Paged flash attention and spanwise attention give the same result, for spans of any kinds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.config.schema import LanguageConfig
from lladav.decoding import paged_attention
from lladav.decoding.kv_cache import BLOCK_SIZE, BlockTable, KVCache, kv_block_bytes
from lladav.decoding.paged_attention import (
    BranchSpan,
    PagedFlashAttention,
    SpanwiseAttention,
    supports_flash_attention,
)
from lladav.decoding.sequence import Span
from lladav.model.attention import CAUSAL, EVERYWHERE, attend_once

CONFIG = LanguageConfig(vocab_size=8, width=256, mlp_width=8, layers=2, heads=4, kv_heads=2)
HEAD = 64
STEP = [
    (Span(300, 350, False), 350, [3, 1], 7),
    (Span(20, 60, False), 90, [5], 40),
    (Span(0, 280, True), 280, [0, 4], 12),
    (Span(0, 33, True), 33, None, 33),
]
"""Span, sequence length, KV blocks and number of output positions of each branch."""
CAUSAL_STEP = [
    (Span(300, 301, False), 301, [3, 1], 1),
    (Span(20, 21, False), 21, [5], 1),
    (Span(0, 280, True), 280, [0, 4], 1),
    (Span(0, 33, True), 33, [2], 1),
]
"""Decode steps and prefills of a model that predicts the next token."""


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
    window_size: tuple[int, int] = EVERYWHERE,
) -> Tensor:
    """What the documentation of ``varlen_attn`` says, with fewer heads of keys than of queries."""
    assert num_splits == 1
    assert longest_query == int(query_bounds.diff().max())
    assert longest_key == int(key_bounds.diff().max())
    out = []
    for row, queries in enumerate(query_THD.split(query_bounds.diff().tolist())):
        if block_table is None:
            own = slice(int(key_bounds[row]), int(key_bounds[row + 1]))
            causal = window_size == CAUSAL
            assert not causal or len(queries) == len(keys[own])
            out.append(attend_once(queries, keys[own], values[own], None, causal=causal))
        else:
            assert seqused_k is not None
            assert window_size == EVERYWHERE
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


def spans_of(device: str, causal: bool = False) -> list[BranchSpan]:
    return [
        BranchSpan(
            span,
            length,
            torch.arange(len(span) - outputs, len(span), device=device),
            None if blocks is None else BlockTable(blocks),
            causal=causal,
        )
        for span, length, blocks, outputs in (CAUSAL_STEP if causal else STEP)
    ]


def heads_of(count: int, heads: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    drawn = torch.randn(count, heads, HEAD, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def assert_equal_attention(dtype: torch.dtype, device: str, tolerance: float, causal: bool) -> None:
    """Compare results in a layer with all queries and in the last layer, and the KV caches afterwards."""
    step = CAUSAL_STEP if causal else STEP
    total = sum(len(span) for span, *_ in step)
    outputs = sum(count for *_, count in step)
    found, caches = [], []
    for implementation in (SpanwiseAttention, PagedFlashAttention):
        caches.append(cache_of(dtype, device))
        attend = implementation(caches[-1], spans_of(device, causal))
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


@pytest.mark.parametrize("causal", [False, True])
def test_paged_flash_equals_spanwise_attention(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    monkeypatch.setattr(paged_attention, "flash_attention", flash_on_a_cpu)
    assert_equal_attention(torch.float32, "cpu", 1e-5, causal)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_paged_flash_equals_spanwise_attention_on_a_gpu(causal: bool) -> None:
    assert_equal_attention(torch.bfloat16, "cuda", 2e-2, causal)


def test_a_causal_prefill_is_that_of_a_causal_mask() -> None:
    query, key, value = (heads_of(33, heads, heads, torch.float32, "cpu") for heads in (4, 2, 2))
    span = BranchSpan(Span(0, 33, True), 33, torch.tensor([32]), BlockTable([2]), causal=True)
    attend = SpanwiseAttention(cache_of(torch.float32, "cpu"), [span])
    mask = torch.ones(33, 33, dtype=torch.bool).tril()
    expected = attend_once(query, key, value, mask)
    torch.testing.assert_close(attend(0, query, key, value), expected)
    torch.testing.assert_close(attend(1, query[32:], key, value), expected[32:])


def test_flash_attention_runs_causal_spans_and_no_masks() -> None:
    def cache(dtype: torch.dtype, is_cuda: bool = True) -> Any:
        return SimpleNamespace(keys=SimpleNamespace(dtype=dtype, is_cuda=is_cuda))

    causal = spans_of("cpu", causal=True)
    masked = [replace(each, mask_SL=torch.ones(len(each.span), each.length)) for each in spans_of("cpu")]
    assert supports_flash_attention(cache(torch.bfloat16), causal)
    assert not supports_flash_attention(cache(torch.bfloat16), masked)
    assert not supports_flash_attention(cache(torch.float32), causal)
    assert not supports_flash_attention(cache(torch.bfloat16, is_cuda=False), causal)


def test_cached_spans_come_first() -> None:
    cache = cache_of(torch.float32, "cpu")
    with pytest.raises(ValueError, match="before"):
        PagedFlashAttention(cache, spans_of("cpu")[::-1])
