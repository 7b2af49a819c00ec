"""The K/V memory of running sequences: preallocated, in pages, never over-committed.

A sequence takes pages for all of its positions at once, when it is admitted, so that it never has to wait for
memory half-way. Pages that lie side by side are preferred: on a CPU their keys are then read where they lie.

Shapes: H key heads, D head width, T positions of a step, L positions of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.config.schema import LanguageConfig
from lladav.errors import UserError

PAGE = 256
"""Positions of a page; what paged flash attention wants a multiple of."""


class PageTable:
    """Which pages are free: bookkeeping without tensors."""

    def __init__(self, pages: int) -> None:
        self.total = pages
        self._free = [True] * pages

    @property
    def free(self) -> int:
        return sum(self._free)

    def take(self, count: int) -> list[int] | None:
        """The first ``count`` pages in a row, else the first free ones; none where there are too few."""
        free = [page for page, is_free in enumerate(self._free) if is_free]
        if len(free) < count:
            return None
        runs = (
            free[i : i + count]
            for i in range(len(free) - count + 1)
            if free[i + count - 1] - free[i] == count - 1
        )
        taken = next(runs, free[:count])
        for page in taken:
            self._free[page] = False
        return taken

    def give_back(self, pages: Sequence[int]) -> None:
        for page in pages:
            if self._free[page]:
                raise ValueError(f"page {page} is free already")
            self._free[page] = True


@dataclass(frozen=True)
class Slots:
    """The pages of a sequence, in order."""

    pages: list[int]

    @property
    def side_by_side(self) -> bool:
        """Whether the sequence lies in one piece."""
        return self.pages == list(range(self.pages[0], self.pages[0] + len(self.pages)))


def bytes_of_page(config: LanguageConfig, dtype: torch.dtype, page: int) -> int:
    """Bytes of the keys and values of so many positions in all layers."""
    return 2 * config.layers * page * config.kv_heads * (config.width // config.heads) * dtype.itemsize


class KVMemory:
    """Keys and values of all layers within a budget of bytes."""

    def __init__(
        self, config: LanguageConfig, budget: int, dtype: torch.dtype, device: torch.device, page: int = PAGE
    ) -> None:
        """Raises ``UserError`` where the budget holds no page."""
        each = bytes_of_page(config, dtype, page)
        if budget < each:
            raise UserError(
                f"decoding: {budget:,} bytes of K/V memory are less than a page of {each:,}; raise them"
            )
        self.page = page
        self.table = PageTable(budget // each)
        shape = page, config.kv_heads, config.width // config.heads
        pools = torch.zeros(2, config.layers, self.table.total, *shape, dtype=dtype, device=device)
        self.keys, self.values = pools.unbind(0)

    def pages_for(self, positions: int) -> int:
        """Pages that so many positions take."""
        return -(-positions // self.page)

    def take(self, positions: int) -> Slots | None:
        """Room for a sequence, if there is enough now."""
        pages = self.table.take(self.pages_for(positions))
        return None if pages is None else Slots(pages)

    def give_back(self, slots: Slots) -> None:
        self.table.give_back(slots.pages)

    def clear(self, slots: Slots) -> None:
        """Set a sequence's keys and values to zero."""
        self.keys[:, slots.pages] = 0
        self.values[:, slots.pages] = 0

    def write(self, layer: int, slots: Slots, start: int, key_SHD: Tensor, value_SHD: Tensor) -> None:
        """Keys and values of positions from ``start`` on."""
        where = self._where(slots, start, start + len(key_SHD))
        self.keys[layer].flatten(0, 1)[where] = key_SHD
        self.values[layer].flatten(0, 1)[where] = value_SHD

    def read(self, layer: int, slots: Slots, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (L, H, D) of the first ``length`` positions, without a copy where they can be."""
        where = self._where(slots, 0, length)
        return self.keys[layer].flatten(0, 1)[where], self.values[layer].flatten(0, 1)[where]

    def write_at(self, layer: int, places_S: Tensor, key_SHD: Tensor, value_SHD: Tensor) -> None:
        """Keys and values at places of the memory."""
        self.keys[layer].flatten(0, 1).index_copy_(0, places_S, key_SHD)
        self.values[layer].flatten(0, 1).index_copy_(0, places_S, value_SHD)

    def places(self, slots: Slots, start: int, end: int) -> Tensor:
        """Where in the memory positions ``start`` to ``end`` are, on the host."""
        positions = torch.arange(start, end)
        return torch.tensor(slots.pages)[positions // self.page] * self.page + positions % self.page

    def _where(self, slots: Slots, start: int, end: int) -> slice | Tensor:
        if slots.side_by_side:
            first = slots.pages[0] * self.page
            return slice(first + start, first + end)
        return self.places(slots, start, end).to(self.keys.device)
