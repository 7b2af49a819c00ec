"""Cached steps as CUDA graphs: the hundreds of kernels of a step are launched as one.

A graph is recorded for numbers of positions, rows and pages that are rounded up, and reads its inputs from
buffers of its own. What is missing to the round number is padding: positions that write to a page which no
sequence has, and rows without queries.

Shapes: T positions of the step, R rows of it, P pages of the longest sequence, W width; all rounded up in a
graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lladav.decoding.cached_attention import Lengths, Pages, Part, attend_to_pages
from lladav.decoding.memory import KVMemory, Slots
from lladav.model.language import LanguageTower, Rotary, rotary_factors

KEPT = 64
"""Graphs that are kept; the one that was not used longest is forgotten."""
LONGEST = 1024
"""Positions of a step that a graph is worth its memory for; longer ones keep the GPU busy anyway."""
ROUND = 32
"""Positions are rounded up to a multiple of it, rows and pages to a power of two."""

Work = Callable[[], Tensor]
"""A computation on buffers, and the buffer with its result."""


def record_on_gpu(work: Work) -> Work:
    """The work as a graph: after warming up, each call launches all of its kernels at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class GraphedSteps:
    """Forwards of cached spans alone; for bidirectional attention."""

    def __init__(
        self, tower: LanguageTower, memory: KVMemory, record: Callable[[Work], Work] = record_on_gpu
    ) -> None:
        """Takes a page of the memory for padding; raises ``ValueError`` where there is none."""
        spare = memory.take(1)
        if spare is None:
            raise ValueError("no page is left for padding")
        self._spare = spare
        self._tower, self._memory, self._record = tower, memory, record
        self._graphs: OrderedDict[tuple[int, int, int], _Buffers] = OrderedDict()

    def forward(self, embeddings_TW: Tensor, positions_T: Tensor, parts: Sequence[Part]) -> Tensor:
        """Hidden states (T, W) after the final norm; they are valid until the next call."""
        pages = max(len(part.slots.pages) for part in parts if part.slots is not None)
        size = _rounded(len(embeddings_TW)), _power(len(parts) + 1), _power(pages)
        buffers = self._buffers(size)
        buffers.fill(embeddings_TW, positions_T, parts)
        if buffers.replay is None:
            buffers.replay = self._record(buffers.forward)
        return buffers.replay()[: len(embeddings_TW)]

    def _buffers(self, size: tuple[int, int, int]) -> _Buffers:
        if size not in self._graphs:
            self._graphs[size] = _Buffers(*size, self._tower, self._memory, self._spare)
        self._graphs.move_to_end(size)
        if len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        return self._graphs[size]


class _Buffers:
    """Inputs of one size, the forward that reads them, and its graph; an ``Attend`` itself."""

    def __init__(
        self, positions: int, rows: int, pages: int, tower: LanguageTower, memory: KVMemory, spare: Slots
    ) -> None:
        self.replay: Work | None = None
        self._tower, self._memory = tower, memory
        self._spare = spare.pages[0]
        width, device = tower.config.width, memory.keys.device
        self._embeddings_TW = torch.zeros(positions, width, dtype=memory.keys.dtype, device=device)
        self._rotary = Rotary(*torch.zeros(2, positions, 1, width // tower.config.heads, device=device))
        self._places_T = torch.zeros(positions, dtype=torch.long, device=device)
        sizes = rows + 1, rows + 1, rows, rows * pages
        self._numbers = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        queries, keys, lengths_R, table = self._numbers.split(sizes)
        capacity = pages * memory.page
        self._queries = Lengths(queries, positions, positions)
        self._pages = Pages(table.view(rows, pages), lengths_R, Lengths(keys, capacity, rows * capacity))

    def fill(self, embeddings_TW: Tensor, positions_T: Tensor, parts: Sequence[Part]) -> None:
        """Take the inputs of a step; padding is the last row's."""
        total = len(embeddings_TW)
        rotary = rotary_factors(positions_T, self._tower.config)
        for buffer, values in (
            (self._embeddings_TW, embeddings_TW),
            (self._rotary.cos, rotary.cos),
            (self._rotary.sin, rotary.sin),
            (self._places_T, self._places(parts)),
        ):
            buffer[:total].copy_(values)
        self._places_T[total:] = self._spare * self._memory.page
        self._numbers.copy_(torch.tensor(self._rows(parts, total), dtype=torch.int32))

    def forward(self) -> Tensor:
        return self._tower(self._embeddings_TW, self._rotary, self)

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        self._memory.write_at(layer, self._places_T, key_THD, value_THD)
        return attend_to_pages(query_THD, self._memory, layer, self._queries, self._pages)

    def _rows(self, parts: Sequence[Part], total: int) -> list[int]:
        """Bounds of queries and keys, lengths, and the table of pages."""
        rows, pages = self._pages.table_RP.shape
        unused = rows - 1 - len(parts)
        spans = [*(len(part.span) for part in parts), *[0] * unused, len(self._embeddings_TW) - total]
        lengths = [*(part.length for part in parts), *[1] * (unused + 1)]
        own = [*(part.slots.pages if part.slots else [] for part in parts), *[[]] * (unused + 1)]
        table = [page for row in own for page in (*row, *[self._spare] * (pages - len(row)))]
        return [0, *accumulate(spans), 0, *accumulate(lengths), *lengths, *table]

    def _places(self, parts: Sequence[Part]) -> Tensor:
        return torch.cat(
            [
                self._memory.places(part.slots, part.span.start, part.span.end)
                for part in parts
                if part.slots is not None
            ]
        )


def _rounded(positions: int) -> int:
    return -(-positions // ROUND) * ROUND


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
