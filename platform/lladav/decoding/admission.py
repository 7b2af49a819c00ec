"""Memory of running requests within one budget: KV blocks, and embeddings of prompts.

A request allocates all the memory it needs when it is admitted, or it waits. So the budget is never
exceeded, and a running request never waits for memory.

Shapes: P positions of a prompt, L of its sequence, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lladav.config.schema import ModelConfig, Prediction
from lladav.decoding.kv_cache import BlockTable, KVCache, kv_block_bytes
from lladav.decoding.paged_attention import has_mask
from lladav.decoding.params import Cache, DecodingOptions
from lladav.errors import UserError

PROMPT_SHARE = 1 / 8
"""Share of the budget for embeddings of prompts. Keys and values of a prompt are many times larger, but a
request that refreshes at every step has embeddings and no KV blocks."""


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a request: branches with cached keys and values, positions of each, bytes of embeddings."""

    cached_branches: int
    positions: int
    prompt_bytes: int


@dataclass(frozen=True)
class MemoryGrant:
    """Memory that a running request holds: a block table per cached branch, and bytes of embeddings."""

    block_tables: list[BlockTable]
    prompt_bytes: int


class Admission:
    """Allocates and frees the memory of requests."""

    def __init__(self, kv_cache: KVCache, prompt_bytes: int) -> None:
        self.kv_cache = kv_cache
        self.prompt_bytes = self.free_prompt_bytes = prompt_bytes
        # Blocks for requests; CUDA graphs may have allocated one before.
        self._num_blocks = kv_cache.free_blocks

    def check(self, request: str, need: MemoryNeed) -> None:
        """Raise ``UserError`` for a request that does not fit even when nothing else runs."""
        blocks = need.cached_branches * self.kv_cache.blocks_for(need.positions)
        if blocks > self._num_blocks:
            raise UserError(
                f"request {request}: {need.positions} positions take {blocks} KV blocks, and the KV cache "
                f"has {self._num_blocks}; raise its memory, or shorten the prompt or decoding.max_tokens"
            )
        if need.prompt_bytes > self.prompt_bytes:
            raise UserError(
                f"request {request}: the embeddings of its prompt take {need.prompt_bytes:,} bytes, and "
                f"there are {self.prompt_bytes:,}; raise the memory, or shorten the prompt"
            )

    def allocate(self, need: MemoryNeed) -> MemoryGrant | None:
        """Allocate the memory of a request; None if too little is free."""
        if need.prompt_bytes > self.free_prompt_bytes:
            return None
        grant = MemoryGrant([], need.prompt_bytes)
        self.free_prompt_bytes -= need.prompt_bytes
        for _ in range(need.cached_branches):
            table = self.kv_cache.allocate(need.positions)
            if table is None:
                self.free(grant)
                return None
            grant.block_tables.append(table)
        return grant

    def clear(self, grant: MemoryGrant) -> None:
        """Overwrite keys and values that are not finite, before other requests get their KV blocks."""
        for table in grant.block_tables:
            self.kv_cache.clear(table)

    def free(self, grant: MemoryGrant) -> None:
        """Free the memory of a request that has ended."""
        self.free_prompt_bytes += grant.prompt_bytes
        for table in grant.block_tables:
            self.kv_cache.free(table)


def memory_need(config: ModelConfig, dtype: torch.dtype, prompt: int, options: DecodingOptions) -> MemoryNeed:
    """The memory that a request with a prompt of ``prompt`` positions needs."""
    positions = prompt + options.answer_positions
    branches = _cached_branches(config, options)
    return MemoryNeed(branches, positions, _prompt_bytes(config, dtype, prompt, positions))


def _cached_branches(config: ModelConfig, options: DecodingOptions) -> int:
    """Branches of a request whose keys and values a later step reads."""
    if config.prediction is Prediction.next_token:
        return 1
    if options.cache is Cache.none or options.refresh_interval == 1:
        return 0
    return 2 if options.guidance > 0 else 1


def _prompt_bytes(config: ModelConfig, dtype: torch.dtype, prompt: int, positions: int) -> int:
    """Bytes of the embeddings (P, W), and of the attention mask (L, L) if there is one.

    The unconditional branch of guidance adds none: its prompt is one embedding, expanded.
    """
    mask = positions**2 if has_mask(config) else 0
    return prompt * config.language.width * dtype.itemsize + mask


def prompt_budget(config: ModelConfig, dtype: torch.dtype, budget: int, rows: int) -> int:
    """Bytes of ``budget`` that are for the prompts of ``rows`` requests.

    This is the least of what the longest prompts need and of a share of the budget. The share grows where
    keys and values are small: it is that of prompts whose keys and values fill the rest.
    """
    longest = config.language.max_positions
    each = _prompt_bytes(config, dtype, longest, longest)
    share_with_cache = each / (each + kv_block_bytes(config.language, dtype, longest))
    return min(rows * each, int(budget * max(PROMPT_SHARE, share_with_cache)))
