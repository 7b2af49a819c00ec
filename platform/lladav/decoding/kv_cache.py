"""The KV cache of running sequences: preallocated, in KV blocks, never over-committed.

A sequence allocates the KV blocks of all its positions at once, when it is admitted, so that it never waits
for memory half-way. A KV block (``block_size`` positions of memory) is not a block of the canvas
(``block_length`` tokens that are decoded together).

Shapes: H key heads, D head width, S positions of a span, L positions of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.config.schema import LanguageConfig
from lladav.errors import UserError

BLOCK_SIZE = 256
"""Positions of a KV block; paged flash attention needs a multiple of 256."""


class BlockAllocator:
    """Which KV blocks are free: bookkeeping without tensors."""

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        return sum(self._is_free)

    def allocate(self, count: int) -> list[int] | None:
        """The first ``count`` consecutive free blocks, else the first free ones; None if too few are free.

        Consecutive blocks are preferred because a CPU then reads their keys without a copy.
        """
        free = [block for block, is_free in enumerate(self._is_free) if is_free]
        if len(free) < count:
            return None
        consecutive = (
            free[i : i + count]
            for i in range(len(free) - count + 1)
            if free[i + count - 1] - free[i] == count - 1
        )
        blocks = next(consecutive, free[:count])
        for block in blocks:
            self._is_free[block] = False
        return blocks

    def free(self, blocks: Sequence[int]) -> None:
        """Raises ``ValueError`` for a block that is not allocated."""
        for block in blocks:
            if self._is_free[block]:
                raise ValueError(f"KV block {block} is already free")
            self._is_free[block] = True


@dataclass(frozen=True)
class BlockTable:
    """The KV blocks of a sequence, in the order of its positions."""

    blocks: list[int]

    @property
    def contiguous(self) -> bool:
        """Whether the blocks are consecutive, so that the sequence is one slice of the cache."""
        return self.blocks == list(range(self.blocks[0], self.blocks[0] + len(self.blocks)))


def kv_block_bytes(config: LanguageConfig, dtype: torch.dtype, block_size: int) -> int:
    """Bytes of the keys and values of ``block_size`` positions in all layers."""
    return 2 * config.layers * block_size * config.kv_heads * (config.width // config.heads) * dtype.itemsize


class KVCache:
    """Keys and values of all layers within a budget of bytes."""

    def __init__(
        self,
        config: LanguageConfig,
        budget: int,
        dtype: torch.dtype,
        device: torch.device,
        block_size: int = BLOCK_SIZE,
    ) -> None:
        """Raises ``UserError`` if the budget does not hold one KV block."""
        block_bytes = kv_block_bytes(config, dtype, block_size)
        if budget < block_bytes:
            raise UserError(
                f"decoding: {budget:,} bytes of KV cache are less than one KV block of {block_bytes:,}; "
                "raise the memory"
            )
        self.block_size = block_size
        self._allocator = BlockAllocator(budget // block_bytes)
        shape = block_size, config.kv_heads, config.width // config.heads
        pools = torch.zeros(2, config.layers, self.total_blocks, *shape, dtype=dtype, device=device)
        self.keys, self.values = pools.unbind(0)

    @property
    def total_blocks(self) -> int:
        return self._allocator.total

    @property
    def free_blocks(self) -> int:
        return self._allocator.num_free

    def blocks_for(self, positions: int) -> int:
        """Number of KV blocks that hold ``positions`` positions."""
        return -(-positions // self.block_size)

    def allocate(self, positions: int) -> BlockTable | None:
        """Allocate the blocks of a sequence; None if too few are free."""
        blocks = self._allocator.allocate(self.blocks_for(positions))
        return None if blocks is None else BlockTable(blocks)

    def free(self, table: BlockTable) -> None:
        self._allocator.free(table.blocks)

    def clear(self, table: BlockTable) -> None:
        """Set the keys and values of a sequence to zero."""
        self.keys[:, table.blocks] = 0
        self.values[:, table.blocks] = 0

    def write(self, layer: int, table: BlockTable, start: int, key_SHD: Tensor, value_SHD: Tensor) -> None:
        """Write keys and values of the S positions of a sequence from ``start`` on."""
        index = self._index(table, start, start + len(key_SHD))
        self.keys[layer].flatten(0, 1)[index] = key_SHD
        self.values[layer].flatten(0, 1)[index] = value_SHD

    def read(self, layer: int, table: BlockTable, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (L, H, D) of the first ``length`` positions; views if the blocks are contiguous."""
        index = self._index(table, 0, length)
        return self.keys[layer].flatten(0, 1)[index], self.values[layer].flatten(0, 1)[index]

    def write_slots(self, layer: int, slot_S: Tensor, key_SHD: Tensor, value_SHD: Tensor) -> None:
        """Write keys and values to slots of the cache."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slot_S, key_SHD)
        self.values[layer].flatten(0, 1).index_copy_(0, slot_S, value_SHD)

    def slots(self, table: BlockTable, start: int, end: int) -> Tensor:
        """Slots of the positions from ``start`` up to ``end`` of a sequence, as a tensor on the host.

        The slot of a position is its index among all positions of the cache.
        """
        positions = torch.arange(start, end)
        return torch.tensor(table.blocks)[positions // self.block_size] * self.block_size + (
            positions % self.block_size
        )

    def _index(self, table: BlockTable, start: int, end: int) -> slice | Tensor:
        if table.contiguous:
            first = table.blocks[0] * self.block_size
            return slice(first + start, first + end)
        return self.slots(table, start, end).to(self.keys.device)
