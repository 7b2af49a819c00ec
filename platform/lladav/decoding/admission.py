"""Memory of running requests within one budget: pages of keys and values, and embeddings of prompts.

A request takes all that it needs when it starts, or waits. So the budget is never exceeded, and a running
request never waits for memory.

Shapes: P positions of a prompt, L of its sequence, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lladav.config.schema import Attention, ModelConfig
from lladav.decoding.kv_cache import KVMemory, Slots, bytes_of_page
from lladav.decoding.params import Cache, DecodingOptions
from lladav.errors import UserError

PROMPT_SHARE = 1 / 8
"""Of the budget, for embeddings: keys and values of a prompt are many times larger, but a request that
refreshes at every step keeps none."""


@dataclass(frozen=True)
class Need:
    """What a request takes: streams whose K/V are kept, positions of each, and bytes of the prompt."""

    streams: int
    positions: int
    prompt_bytes: int


@dataclass(frozen=True)
class Room:
    """What a running request has taken; a stream that keeps no keys and values has no slots."""

    slots: list[Slots]
    prompt_bytes: int


class Admission:
    """Gives room to requests and takes it back."""

    def __init__(self, memory: KVMemory, prompt_bytes: int) -> None:
        self.memory = memory
        self.prompt_bytes = self.free_prompt_bytes = prompt_bytes
        self._pages = memory.table.free

    def check(self, request: str, need: Need) -> None:
        """Raise ``UserError`` for a request that never gets room."""
        pages = need.streams * self.memory.pages_for(need.positions)
        if pages > self._pages:
            raise UserError(
                f"request {request}: {need.positions} positions take {pages} pages of K/V memory, which "
                f"has {self._pages}; raise it, or shorten the prompt or decoding.max_tokens"
            )
        if need.prompt_bytes > self.prompt_bytes:
            raise UserError(
                f"request {request}: its prompt takes {need.prompt_bytes:,} bytes of embeddings, for which "
                f"there are {self.prompt_bytes:,}; raise the memory, or shorten the prompt"
            )

    def take(self, need: Need) -> Room | None:
        """Room for a request, if there is enough now."""
        if need.prompt_bytes > self.free_prompt_bytes:
            return None
        room = Room([], need.prompt_bytes)
        self.free_prompt_bytes -= need.prompt_bytes
        for _ in range(need.streams):
            slots = self.memory.take(need.positions)
            if slots is None:
                self.give_back(room)
                return None
            room.slots.append(slots)
        return room

    def clear(self, room: Room) -> None:
        """Overwrite keys and values that are not finite, before other requests get their pages."""
        for slots in room.slots:
            self.memory.clear(slots)

    def give_back(self, room: Room) -> None:
        """The room of a request that has ended."""
        self.free_prompt_bytes += room.prompt_bytes
        for slots in room.slots:
            self.memory.give_back(slots)


def kept_streams(options: DecodingOptions) -> int:
    """Streams whose keys and values a later step reads: none where every step refreshes."""
    if options.cache is Cache.none or options.refresh_interval == 1:
        return 0
    return 2 if options.guidance > 0 else 1


def need_of(config: ModelConfig, dtype: torch.dtype, prompt: int, options: DecodingOptions) -> Need:
    """The memory that a request takes for a prompt of this many positions."""
    positions = prompt + options.behind
    return Need(kept_streams(options), positions, _prompt_bytes(config, dtype, prompt, positions))


def _prompt_bytes(config: ModelConfig, dtype: torch.dtype, prompt: int, positions: int) -> int:
    """Bytes of embeddings (P, W), and of who sees whom (L, L) where not all see all.

    The prompt of guidance's second stream is one embedding.
    """
    mask = 0 if config.attention is Attention.bidirectional else positions**2
    return prompt * config.language.width * dtype.itemsize + mask


def prompt_share(config: ModelConfig, dtype: torch.dtype, budget: int, rows: int) -> int:
    """Bytes of a budget for the prompts of ``rows`` requests: what they can need at most, or their share.

    Where keys and values are small, the share is that of prompts whose keys and values fill the rest.
    """
    longest = config.language.max_positions
    each = _prompt_bytes(config, dtype, longest, longest)
    with_cache = each / (each + bytes_of_page(config.language, dtype, longest))
    return min(rows * each, int(budget * max(PROMPT_SHARE, with_cache)))
