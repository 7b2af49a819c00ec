"""Cached steps as CUDA graphs: the hundreds of kernels of a step are launched as one.

Graphs are captured when an engine is made, for rounded sizes, the largest first; nothing is captured while
requests run. A step replays the smallest graph that holds it, and one that no graph holds runs without. What
is missing to a graph's size is padding: positions that write to a page which no sequence has, and rows
without queries. One graph runs at a time, so all share their inputs, their result, and the memory in between.

Shapes: T positions of the step, R rows of it, P pages of the longest sequence, W width; all rounded up in a
graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from lladav.config.schema import Attention, ModelConfig
from lladav.decoding.kv_cache import KVMemory, Slots
from lladav.decoding.paged_attention import Lengths, Pages, Part, attend_to_pages
from lladav.errors import UserError
from lladav.model.language import LanguageTower, Rotary, rotary_factors

LOG = logging.getLogger(__name__)
LONGEST = 1024
"""Positions of the largest graph; longer steps keep the GPU busy anyway."""
ROUND = 32
"""Positions are rounded up to a multiple of it, and to an eighth at most where they are many."""
ROWS = 4
"""Rows are rounded up to a power of it: each row of padding costs the attention a little."""

Work = Callable[[], None]
"""A computation from buffers to a buffer."""


@dataclass(frozen=True, order=True)
class Size:
    """Positions and rows of a graph; a row is for padding."""

    positions: int
    rows: int


def sizes_in_use(rows: int, canvas: int, block: int) -> list[Size]:
    """Sizes of the cached steps of up to ``rows`` answers, each of which forwards ``block`` to ``canvas``
    positions, or twice as many with guidance; in ascending order.
    """
    streams, sizes, before = 2 * rows, [], 0
    for positions in _positions(min(LONGEST, streams * canvas)):
        most = min(streams, max(1, positions // min(block, canvas)))
        sizes += [Size(positions, of_rows) for of_rows in _rows(most) if (of_rows - 1) * canvas > before]
        before = positions
    return sizes


def _positions(longest: int) -> Iterator[int]:
    """Rounded numbers of positions, up to the first that holds the longest step."""
    positions = 0
    while positions < longest:
        positions += max(ROUND, (1 << positions.bit_length()) // 8)
        yield positions


def _rows(most: int) -> Iterator[int]:
    """Rounded numbers of rows, one of them for padding, up to the first that holds the most."""
    rows = ROWS
    while rows < most + 1:
        yield rows
        rows *= ROWS
    yield min(rows, most + 1)


def can_graph(config: ModelConfig, weight: Tensor) -> bool:
    """Whether cached steps of a model can be graphs; raises ``UserError`` where it is not on a GPU."""
    if not weight.is_cuda:
        raise UserError("decoding: CUDA graphs need a model on a GPU; leave them out")
    possible = config.attention is Attention.bidirectional and weight.dtype in (torch.bfloat16, torch.float16)
    if not possible:
        LOG.warning(
            "no CUDA graphs: they need bidirectional attention and weights in bfloat16 or float16, not %s "
            "attention and %s",
            config.attention.value,
            weight.dtype,
        )
    return possible


class Recorder(Protocol):
    """Makes graphs; ``used`` are the bytes of the device that they took so far."""

    def record(self, work: Work) -> Work: ...

    @property
    def used(self) -> int: ...


class GPURecorder:
    """CUDA graphs that share a pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._free = self._free_now()

    def record(self, work: Work) -> Work:
        """The work as a graph: after warming up, each call launches all of its kernels at once."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay

    @property
    def used(self) -> int:
        return self._free - self._free_now()

    def _free_now(self) -> int:
        """Free bytes of the device, without what torch keeps for later."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]


class GraphedSteps:
    """Forwards of cached spans alone; for bidirectional attention."""

    def __init__(
        self,
        tower: LanguageTower,
        memory: KVMemory,
        sizes: Sequence[Size],
        budget: int,
        recorder: Recorder | None = None,
    ) -> None:
        """Capture graphs of these sizes until they take more than ``budget`` bytes.

        Takes a page of the memory for padding; raises ``UserError`` where there is none.
        """
        recorder = recorder or GPURecorder()
        spare = memory.take(1)
        if spare is None:
            raise UserError("decoding: no page of K/V memory is left for CUDA graphs; raise the memory")
        largest = Size(max(size.positions for size in sizes), max(size.rows for size in sizes))
        buffers = _Buffers(largest, tower, memory, spare)
        self._graphs: dict[Size, tuple[_Step, Work]] = {}
        for size in sorted(sizes, reverse=True):
            step = _Step(size, buffers)
            graph = recorder.record(step.forward)
            if recorder.used > budget:
                LOG.warning(
                    "%d of %d sizes of cached steps are CUDA graphs: more do not fit in %d bytes; raise "
                    "engine.graph_bytes",
                    len(self._graphs),
                    len(sizes),
                    budget,
                )
                break
            self._graphs[size] = step, graph
        self._ascending = sorted(self._graphs)

    @property
    def sizes(self) -> list[Size]:
        """Sizes that have a graph, in ascending order."""
        return list(self._ascending)

    def size_for(self, positions: int, parts: int) -> Size | None:
        """The smallest size that holds a step; none where no graph does."""
        holding = (s for s in self._ascending if s.positions >= positions and s.rows > parts)
        return next(holding, None)

    def forward(self, size: Size, inputs_TW: Tensor, positions_T: Tensor, parts: Sequence[Part]) -> Tensor:
        """Hidden states (T, W) after the final norm; they are valid until the next call."""
        step, graph = self._graphs[size]
        step.fill(inputs_TW, positions_T, parts)
        graph()
        return step.hidden_TW[: len(inputs_TW)]


class _Buffers:
    """Inputs and result of the largest size, whose beginnings are those of smaller ones."""

    def __init__(self, size: Size, tower: LanguageTower, memory: KVMemory, spare: Slots) -> None:
        self.tower, self.memory, self.spare = tower, memory, spare.pages[0]
        config, device, dtype = tower.config, memory.keys.device, memory.keys.dtype
        self.pages = min(memory.table.total, memory.pages_for(config.max_positions))
        self.inputs_TW = torch.zeros(size.positions, config.width, dtype=dtype, device=device)
        self.hidden_TW = torch.zeros_like(self.inputs_TW)
        turns = torch.zeros(2, size.positions, 1, config.width // config.heads, device=device)
        self.cos, self.sin = turns.unbind(0)
        self.places_T = torch.zeros(size.positions, dtype=torch.long, device=device)
        numbers = 2 * (size.rows + 1) + size.rows * (1 + self.pages)
        self.numbers = torch.zeros(numbers, dtype=torch.int32, device=device)


class _Step:
    """A size's part of the buffers, and the forward from inputs to hidden states; an ``Attend`` itself."""

    def __init__(self, size: Size, buffers: _Buffers) -> None:
        self._size, self._buffers = size, buffers
        rows, pages, memory = size.rows, buffers.pages, buffers.memory
        self._inputs_TW, self.hidden_TW, self._places_T, cos, sin = (
            each[: size.positions]
            for each in (buffers.inputs_TW, buffers.hidden_TW, buffers.places_T, buffers.cos, buffers.sin)
        )
        self._rotary = Rotary(cos, sin)
        lengths = rows + 1, rows + 1, rows, rows * pages
        self._numbers = buffers.numbers[: sum(lengths)]
        queries, keys, lengths_R, table = self._numbers.split(lengths)
        capacity = pages * memory.page
        self._queries = Lengths(queries, size.positions, size.positions)
        self._pages = Pages(table.view(rows, pages), lengths_R, Lengths(keys, capacity, rows * capacity))
        self._pad(0, [])

    def fill(self, inputs_TW: Tensor, positions_T: Tensor, parts: Sequence[Part]) -> None:
        """Take the inputs of a step; padding is the last row's."""
        total = len(inputs_TW)
        rotary = rotary_factors(positions_T, self._buffers.tower.config)
        places = [self._buffers.memory.places(p.slots, p.span.start, p.span.end) for p in parts if p.slots]
        for buffer, values in (
            (self._inputs_TW, inputs_TW),
            (self._rotary.cos, rotary.cos),
            (self._rotary.sin, rotary.sin),
            (self._places_T, torch.cat(places)),
        ):
            buffer[:total].copy_(values)
        self._pad(total, parts)

    def _pad(self, total: int, parts: Sequence[Part]) -> None:
        self._places_T[total:] = self._buffers.spare * self._buffers.memory.page
        self._numbers.copy_(torch.tensor(self._rows(total, parts), dtype=torch.int32))

    @torch.no_grad()
    def forward(self) -> None:
        """What is captured."""
        self.hidden_TW.copy_(self._buffers.tower(self._inputs_TW, self._rotary, self))

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        self._buffers.memory.write_at(layer, self._places_T, key_THD, value_THD)
        return attend_to_pages(query_THD, self._buffers.memory, layer, self._queries, self._pages)

    def _rows(self, total: int, parts: Sequence[Part]) -> list[int]:
        """Bounds of queries and keys, lengths, and the table of pages."""
        pages, unused = self._buffers.pages, self._size.rows - 1 - len(parts)
        spans = [*(len(part.span) for part in parts), *[0] * unused, self._size.positions - total]
        lengths = [*(part.length for part in parts), *[1] * (unused + 1)]
        own = [*(part.slots.pages if part.slots else [] for part in parts), *[[]] * (unused + 1)]
        table = [page for row in own for page in (*row, *[self._buffers.spare] * (pages - len(row)))]
        return [0, *accumulate(spans), 0, *accumulate(lengths), *lengths, *table]
