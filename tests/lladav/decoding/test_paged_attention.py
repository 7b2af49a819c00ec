"""Both ways of attending a step give the same, whatever lies side by side in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lladav.config.schema import LanguageConfig
from lladav.decoding import paged_attention as cached_attention
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
"""Span, length, pages, and how many positions are wanted of each part."""


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
    """What ``varlen_attn`` is documented to do."""
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
            pages = block_table[row].long()
            own_keys, own_values = (x[pages].flatten(0, 1)[: int(seqused_k[row])] for x in (keys, values))
            out.append(attend_once(queries, own_keys, own_values, None))
    return torch.cat(out)


def memory_of(dtype: torch.dtype, device: str) -> KVCache:
    memory = KVCache(CONFIG, 6 * kv_block_bytes(CONFIG, dtype, BLOCK_SIZE), dtype, torch.device(device))
    fill = torch.Generator().manual_seed(1)
    for pool in (memory.keys, memory.values):
        pool.copy_(torch.randn(pool.shape, generator=fill))
    return memory


def parts_of(device: str) -> list[BranchSpan]:
    return [
        BranchSpan(
            span,
            length,
            torch.arange(len(span) - wanted, len(span), device=device),
            None if pages is None else BlockTable(pages),
        )
        for span, length, pages, wanted in STEP
    ]


def heads_of(count: int, heads: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    drawn = torch.randn(count, heads, HEAD, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype)


def both(dtype: torch.dtype, device: str, tolerance: float) -> None:
    """Compare the ways in a layer where all ask and in one where the wanted ask, and what they keep."""
    total = sum(len(span) for span, *_ in STEP)
    wanted = sum(count for *_, count in STEP)
    found, memories = [], []
    for way in (SpanwiseAttention, PagedFlashAttention):
        memories.append(memory_of(dtype, device))
        attend = way(memories[-1], parts_of(device))
        found.append(
            [
                attend(
                    layer,
                    heads_of(asking, 4, 2, dtype, device),
                    heads_of(total, 2, 3, dtype, device),
                    heads_of(total, 2, 4, dtype, device),
                )
                for layer, asking in enumerate((total, wanted))
            ]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    one, other = memories
    assert one.keys.equal(other.keys)
    assert one.values.equal(other.values)


def test_paged_flash_is_the_same_as_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_attention, "varlen_attn", flash_on_a_cpu)
    both(torch.float32, "cpu", 1e-5)


@pytest.mark.gpu
def test_paged_flash_on_a_gpu_is_the_same_as_part_by_part() -> None:
    both(torch.bfloat16, "cuda", 2e-2)


def test_cached_parts_come_first() -> None:
    memory = memory_of(torch.float32, "cpu")
    with pytest.raises(ValueError, match="before"):
        PagedFlashAttention(memory, parts_of("cpu")[::-1])
