"""Cached steps as CUDA graphs: the hundreds of kernels of a step are launched as one.

Graphs are captured when an engine is made, for rounded sizes, the largest first; nothing is captured while
requests run. A step replays the smallest graph that is large enough; without one it runs kernel by kernel.
Steps are padded to the size of their graph. Only one graph runs at a time, so all graphs share their inputs,
their result, and the memory of intermediate tensors.

Shapes: T positions of the step, R rows of it, C KV blocks of the longest sequence, W width; all padded to the
size of the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from lladav.config.schema import ModelConfig
from lladav.decoding.adapters import BASE, PositionAdapters
from lladav.decoding.kv_cache import BlockTable, KVCache
from lladav.decoding.paged_attention import (
    BatchBlockTables,
    BranchSpan,
    CumulativeLengths,
    attend_to_blocks,
    has_mask,
)
from lladav.errors import UserError
from lladav.model.language import LanguageTower, Rotary, rotary_factors

LOG = logging.getLogger(__name__)
MAX_POSITIONS = 1024
"""Positions of the largest graph; longer steps keep the GPU busy without a graph."""
POSITION_STEP = 32
"""Positions are rounded up to a multiple of this, or to an eighth of their power of two if that is more."""
ROW_BASE = 4
"""Rows are rounded up to a power of this: each row of padding costs the attention a little."""

Computation = Callable[[], None]
"""Reads input buffers and writes result buffers."""


@dataclass(frozen=True, order=True)
class GraphSize:
    """Positions and rows of a graph; one of the rows is for padding. A row is one branch of a request."""

    positions: int
    rows: int


def capture_sizes(requests: int, canvas: int, block_length: int) -> list[GraphSize]:
    """Sizes of the cached steps of up to ``requests`` requests, in ascending order.

    Each request forwards ``block_length`` to ``canvas`` positions, or twice as many with guidance.
    """
    branches, sizes, before = 2 * requests, [], 0
    for positions in _rounded_positions(min(MAX_POSITIONS, branches * canvas)):
        max_rows = min(branches, max(1, positions // min(block_length, canvas)))
        # If so few rows cannot have more than `before` positions, a smaller graph holds their steps.
        sizes += [
            GraphSize(positions, rows) for rows in _rounded_rows(max_rows) if (rows - 1) * canvas > before
        ]
        before = positions
    return sizes


def _rounded_positions(longest: int) -> Iterator[int]:
    """Rounded numbers of positions, up to the first that holds ``longest``."""
    positions = 0
    while positions < longest:
        positions += max(POSITION_STEP, (1 << positions.bit_length()) // 8)
        yield positions


def _rounded_rows(max_rows: int) -> Iterator[int]:
    """Rounded numbers of rows with one for padding, up to the first that holds ``max_rows``."""
    rows = ROW_BASE
    while rows < max_rows + 1:
        yield rows
        rows *= ROW_BASE
    yield min(rows, max_rows + 1)


def supports_cuda_graphs(config: ModelConfig, weight: Tensor) -> bool:
    """Whether cached steps of a model can be graphs; raises ``UserError`` for a model on a CPU."""
    if not weight.is_cuda:
        raise UserError("decoding: CUDA graphs need a model on a GPU; leave them out")
    # Graphs contain paged flash attention, which takes no mask and only half precision.
    supported = not has_mask(config) and weight.dtype in (torch.bfloat16, torch.float16)
    if not supported:
        LOG.warning(
            "no CUDA graphs: they need bidirectional attention or a model that predicts the next token, and "
            "weights in bfloat16 or float16, not %s attention and %s",
            config.attention.value,
            weight.dtype,
        )
    return supported


class GraphRecorder(Protocol):
    """Captures graphs; ``used`` is the device memory that they take so far, in bytes."""

    def record(self, computation: Computation) -> Computation: ...

    @property
    def used(self) -> int: ...


class CudaGraphRecorder:
    """Captures CUDA graphs that share one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._free_before = self._free_bytes()

    def record(self, computation: Computation) -> Computation:
        """Capture a computation; the result launches all of its kernels at once."""
        # Capture needs a warm-up on a side stream: the first runs initialize libraries and tune kernels.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                computation()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            computation()
        return graph.replay

    @property
    def used(self) -> int:
        return self._free_before - self._free_bytes()

    def _free_bytes(self) -> int:
        """Free memory of the device; memory that torch caches for later counts as free."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]


class CudaGraphs:
    """Graphs of steps that have cached spans only, for attention without a mask."""

    def __init__(
        self,
        tower: LanguageTower,
        kv_cache: KVCache,
        sizes: Sequence[GraphSize],
        budget: int,
        recorder: GraphRecorder | None = None,
        adapters: PositionAdapters | None = None,
    ) -> None:
        """Capture graphs of these sizes until they take more than ``budget`` bytes.

        Allocates one KV block for padding; raises ``UserError`` if none is free. ``adapters`` are those that
        the layers of the tower read, if it has adapters.
        """
        recorder = recorder or CudaGraphRecorder()
        padding = kv_cache.allocate(1)
        if padding is None:
            raise UserError("decoding: no KV block is left for CUDA graphs; raise the memory")
        largest = GraphSize(max(size.positions for size in sizes), max(size.rows for size in sizes))
        buffers = _Buffers(largest, tower, kv_cache, padding, adapters)
        self._graphs = dict(_captured(sizes, buffers, budget, recorder))
        self._ascending = sorted(self._graphs)

    @property
    def sizes(self) -> list[GraphSize]:
        """Sizes of the captured graphs, in ascending order."""
        return list(self._ascending)

    def size_for(self, positions: int, rows: int) -> GraphSize | None:
        """The smallest size that holds a step and a row of padding; None if there is none."""
        large_enough = (s for s in self._ascending if s.positions >= positions and s.rows > rows)
        return next(large_enough, None)

    def forward(
        self, size: GraphSize, inputs_TW: Tensor, positions_T: Tensor, spans: Sequence[BranchSpan]
    ) -> Tensor:
        """Hidden states (T, W) after the final norm; they are valid until the next call."""
        step, graph = self._graphs[size]
        step.fill(inputs_TW, positions_T, spans)
        graph()
        return step.hidden_TW[: len(inputs_TW)]


def _captured(
    sizes: Sequence[GraphSize], buffers: _Buffers, budget: int, recorder: GraphRecorder
) -> Iterator[tuple[GraphSize, tuple[_Step, Computation]]]:
    """Capture graphs until they take more than the budget."""
    # The largest first: smaller graphs then reuse its memory in the shared pool.
    for count, size in enumerate(sorted(sizes, reverse=True)):
        step = _Step(size, buffers)
        graph = recorder.record(step.forward)
        if recorder.used > budget:
            LOG.warning(
                "%d of %d sizes of cached steps are CUDA graphs: more do not fit in %d bytes; raise "
                "engine.graph_bytes",
                count,
                len(sizes),
                budget,
            )
            return
        yield size, (step, graph)


class _Buffers:
    """Inputs and result of the largest size; smaller sizes use the beginning of each buffer."""

    def __init__(
        self,
        size: GraphSize,
        tower: LanguageTower,
        kv_cache: KVCache,
        padding: BlockTable,
        adapters: PositionAdapters | None,
    ) -> None:
        self.tower, self.kv_cache, self.padding_block = tower, kv_cache, padding.blocks[0]
        self.adapters = adapters
        config, device, dtype = tower.config, kv_cache.keys.device, kv_cache.keys.dtype
        self.blocks_per_row = min(kv_cache.total_blocks, kv_cache.blocks_for(config.max_positions))
        self.inputs_TW = torch.zeros(size.positions, config.width, dtype=dtype, device=device)
        self.hidden_TW = torch.zeros_like(self.inputs_TW)
        rotary = torch.zeros(2, size.positions, 1, config.width // config.heads, device=device)
        self.cos, self.sin = rotary.unbind(0)
        self.slot_T = torch.zeros(size.positions, dtype=torch.long, device=device)
        # All integers are one buffer, so that a step copies them to the device at once.
        self.integers = torch.zeros(sum(self.counts(size)), dtype=torch.int32, device=device)

    def counts(self, size: GraphSize) -> Sequence[int]:
        """Integers of a size: bounds of queries and of keys, lengths, block tables, adapters of positions."""
        tables, adapters = size.rows * self.blocks_per_row, size.positions if self.adapters else 0
        return size.rows + 1, size.rows + 1, size.rows, tables, adapters


class _Step:
    """The buffers of one size, and the forward over them; an ``Attend`` itself."""

    def __init__(self, size: GraphSize, buffers: _Buffers) -> None:
        self._size, self._buffers = size, buffers
        rows, blocks = size.rows, buffers.blocks_per_row
        self._inputs_TW, self.hidden_TW, self._slot_T, cos, sin = (
            each[: size.positions]
            for each in (buffers.inputs_TW, buffers.hidden_TW, buffers.slot_T, buffers.cos, buffers.sin)
        )
        self._rotary = Rotary(cos, sin)
        counts = buffers.counts(size)
        self._integers = buffers.integers[: sum(counts)]
        query_bounds, key_bounds, lengths_R, table, self._adapter_T = self._integers.split(counts)
        # The longest lengths are part of the captured launch, so they are upper bounds for any step.
        capacity = blocks * buffers.kv_cache.block_size
        self._queries = CumulativeLengths(query_bounds, size.positions, size.positions)
        keys = CumulativeLengths(key_bounds, capacity, rows * capacity)
        self._tables = BatchBlockTables(table.view(rows, blocks), lengths_R, keys)
        self._pad(0, [])  # valid inputs for the warm-up and the capture

    def fill(self, inputs_TW: Tensor, positions_T: Tensor, spans: Sequence[BranchSpan]) -> None:
        """Copy the inputs of a step to the buffers and pad the rest."""
        total = len(inputs_TW)
        kv_cache = self._buffers.kv_cache
        rotary = rotary_factors(positions_T, self._buffers.tower.config)
        slots = [
            kv_cache.slots(each.block_table, each.span.start, each.span.end)
            for each in spans
            if each.block_table
        ]
        for buffer, values in (
            (self._inputs_TW, inputs_TW),
            (self._rotary.cos, rotary.cos),
            (self._rotary.sin, rotary.sin),
            (self._slot_T, torch.cat(slots)),
        ):
            buffer[:total].copy_(values)
        self._pad(total, spans)

    def _pad(self, total: int, spans: Sequence[BranchSpan]) -> None:
        # Padding positions write their keys to a block that no sequence has.
        self._slot_T[total:] = self._buffers.padding_block * self._buffers.kv_cache.block_size
        self._integers.copy_(torch.tensor(self._step_integers(total, spans), dtype=torch.int32))

    @torch.no_grad()
    def forward(self) -> None:
        """The computation that is captured."""
        if self._buffers.adapters:
            self._buffers.adapters.set(self._adapter_T)
        self.hidden_TW.copy_(self._buffers.tower(self._inputs_TW, self._rotary, self))

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        self._buffers.kv_cache.write_slots(layer, self._slot_T, key_THD, value_THD)
        return attend_to_blocks(query_THD, self._buffers.kv_cache, layer, self._queries, self._tables)

    def _step_integers(self, total: int, spans: Sequence[BranchSpan]) -> list[int]:
        """The integers of a step, in the order of ``_Buffers.counts``.

        Unused rows have no queries and one key. The last row has all padding positions as queries: attention
        over them is computed and thrown away.
        """
        blocks, padding_block = self._buffers.blocks_per_row, self._buffers.padding_block
        unused = self._size.rows - 1 - len(spans)
        queries = [*(len(each.span) for each in spans), *[0] * unused, self._size.positions - total]
        lengths = [*(each.length for each in spans), *[1] * (unused + 1)]
        tables = [each.block_table.blocks if each.block_table else [] for each in spans]
        tables += [[]] * (unused + 1)
        table = [block for row in tables for block in (*row, *[padding_block] * (blocks - len(row)))]
        bounds = 0, *accumulate(queries), 0, *accumulate(lengths)
        return [*bounds, *lengths, *table, *self._adapter_integers(spans)]

    def _adapter_integers(self, spans: Sequence[BranchSpan]) -> list[int]:
        """The number of the adapter of each position; none without adapters."""
        if not self._buffers.adapters:
            return []
        numbers = [each.adapter for each in spans for _ in range(len(each.span))]
        return [*numbers, *[BASE] * (self._size.positions - len(numbers))]
