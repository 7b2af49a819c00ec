"""The KV cache: blocks are allocated once, freed once, and read as they were written."""

from __future__ import annotations

import random

import pytest
import torch

from lladav.config.schema import LanguageConfig
from lladav.decoding.kv_cache import BlockAllocator, BlockTable, KVCache, kv_block_bytes
from lladav.errors import UserError

CONFIG = LanguageConfig(vocab_size=8, width=8, mlp_width=8, layers=2, heads=2, kv_heads=1)
BLOCK_SIZE = 4
CPU = torch.device("cpu")


def cache_of(blocks: int) -> KVCache:
    budget = blocks * kv_block_bytes(CONFIG, torch.float32, BLOCK_SIZE)
    return KVCache(CONFIG, budget, torch.float32, CPU, BLOCK_SIZE)


def test_ten_thousand_allocations_leak_nothing() -> None:
    draw, allocator = random.Random(0), BlockAllocator(50)
    held: list[list[int]] = []
    for _ in range(10_000):
        if held and draw.random() < 0.5:
            allocator.free(held.pop(draw.randrange(len(held))))
        elif (blocks := allocator.allocate(draw.randint(1, 12))) is not None:
            held.append(blocks)
        used = [block for blocks in held for block in blocks]
        assert len(used) == len(set(used)) == allocator.total - allocator.num_free
    for blocks in held:
        allocator.free(blocks)
    assert allocator.num_free == allocator.total


def test_nothing_is_allocated_if_too_few_blocks_are_free() -> None:
    allocator = BlockAllocator(3)
    assert allocator.allocate(2) == [0, 1]
    assert allocator.allocate(2) is None
    assert allocator.num_free == 1


def test_consecutive_blocks_are_preferred() -> None:
    allocator = BlockAllocator(6)
    first, second = allocator.allocate(1), allocator.allocate(1)
    assert first is not None
    allocator.free(first)
    assert allocator.allocate(3) == [2, 3, 4]
    assert second is not None
    allocator.free(second)
    assert allocator.allocate(3) == [0, 1, 5]


def test_a_block_is_freed_once() -> None:
    allocator = BlockAllocator(2)
    allocator.allocate(1)
    allocator.free([0])
    with pytest.raises(ValueError, match="KV block 0 is already free"):
        allocator.free([0])


@pytest.mark.parametrize("blocks", [[0, 1, 2], [3, 0, 2]])
def test_what_is_written_is_read_back_in_order(blocks: list[int]) -> None:
    cache, table = cache_of(4), BlockTable(blocks)
    keys, values = torch.randn(2, 10, 1, 4)
    cache.write(1, table, 0, keys, values)
    cache.write(1, table, 3, keys[3:5] + 1, values[3:5] + 1)
    keys[3:5] += 1
    values[3:5] += 1
    for read, expected in zip(cache.read(1, table, 10), (keys, values), strict=True):
        assert torch.equal(read, expected)


def test_a_budget_below_one_block_is_refused() -> None:
    with pytest.raises(UserError, match="less than one KV block"):
        KVCache(CONFIG, 10, torch.float32, CPU, BLOCK_SIZE)


def test_the_cache_stays_within_its_budget() -> None:
    cache = cache_of(3)
    assert cache.keys.nbytes + cache.values.nbytes == 3 * kv_block_bytes(CONFIG, torch.float32, BLOCK_SIZE)
    assert cache.blocks_for(9) == 3
    assert cache.allocate(13) is None
