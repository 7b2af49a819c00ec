"""Cached steps in padded buffers, as CUDA graphs use them, give the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lladav.config.schema import Attention, LoraTarget
from lladav.decoding import model_runner, paged_attention
from lladav.decoding.cuda_graphs import (
    MAX_POSITIONS,
    POSITION_STEP,
    Computation,
    CudaGraphRecorder,
    CudaGraphs,
    GraphSize,
    capture_sizes,
    supports_cuda_graphs,
)
from lladav.decoding.engine import GRAPH_BYTES, Engine, EngineConfig
from lladav.decoding.kv_cache import BLOCK_SIZE, kv_block_bytes
from lladav.decoding.model_runner import ModelRunner
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.results import Decoded
from lladav.model.llada_v import LLaDAV
from tests.lladav.adapted import RandomAdapter, adapted, merged
from tests.lladav.build import text_sample, tiny_model
from tests.lladav.decoding.test_engine import NEXT_TOKEN_MODEL
from tests.lladav.decoding.test_paged_attention import flash_on_a_cpu

MODEL = tiny_model()
REQUESTS = [
    (300, DecodingOptions(max_tokens=12, refresh_interval=4)),
    (7, DecodingOptions(max_tokens=16, block_length=8, refresh_interval=8, cache=Cache.dual)),
    (40, DecodingOptions(max_tokens=8, refresh_interval=None, guidance=0.5)),
    (90, DecodingOptions(max_tokens=10, refresh_interval=3, suffix=(5, 6))),
]
NEXT_TOKEN_REQUESTS = [
    (length, DecodingOptions(max_tokens=tokens)) for length, tokens in ((300, 9), (7, 14), (250, 12))
]

Requests = Sequence[tuple[int, DecodingOptions]]
"""Length of a prompt, and options."""


def answers(
    engine: Engine, requests: Requests = REQUESTS, adapters: Sequence[str | None] = (None,)
) -> dict[str, Decoded]:
    """Answers of requests that arrive one step after another, the first to the first adapter and so on."""
    found: dict[str, Decoded] = {}
    waiting = [(text_sample(str(n), length, n), options) for n, (length, options) in enumerate(requests)]
    names = cycle(adapters)
    while waiting or engine.busy:
        if waiting:
            engine.submit(*waiting.pop(0), adapter=next(names))
        found |= {each.id: each.answer for each in engine.step() if each.answer is not None}
    return found


def engine_of(
    model: LLaDAV,
    graph_sizes: Sequence[GraphSize] = (),
    adapters: Mapping[str, LLaDAV] | None = None,
    **settings: Any,
) -> Engine:
    kv_bytes = 16 * kv_block_bytes(model.config.language, model.newline.dtype, BLOCK_SIZE)
    extra = GRAPH_BYTES if graph_sizes else 0
    memory = kv_bytes + extra + 2**20
    config = EngineConfig(memory, graph_sizes=graph_sizes, prompt_bytes=2**20, **settings)
    return Engine(model, config, adapters)


def adapters_of(model: LLaDAV) -> dict[str, LLaDAV]:
    """Two adapters of a model."""
    some = RandomAdapter(seed=1), RandomAdapter(2, 3, targets=[LoraTarget.q_proj], seed=2)
    return {str(each.seed): adapted(model, each) for each in some}


class FakeRecorder:
    """Runs computations without capturing them, and counts ``each`` bytes for each."""

    def __init__(self, each: int = 1) -> None:
        self.recorded, self._each = list[Computation](), each

    def record(self, computation: Computation) -> Computation:
        self.recorded.append(computation)
        computation()
        return computation

    @property
    def used(self) -> int:
        return self._each * len(self.recorded)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run paged flash attention on a CPU, and check that the longest lengths are upper bounds."""

    def attend(query, keys, values, query_bounds, key_bounds, longest_query, longest_key, **settings):
        assert longest_query >= int(query_bounds.diff().max())
        assert longest_key >= int(key_bounds.diff().max())
        longest = int(query_bounds.diff().max()), int(key_bounds.diff().max())
        return flash_on_a_cpu(query, keys, values, query_bounds, key_bounds, *longest, **settings)

    monkeypatch.setattr(paged_attention, "flash_attention", attend)
    for module in (paged_attention, model_runner):
        monkeypatch.setattr(module, "supports_flash_attention", lambda *_: True)


def graphed(
    sizes: Sequence[GraphSize],
    recorder: FakeRecorder,
    budget: int = 2**40,
    model: LLaDAV = MODEL,
    adapters: Mapping[str, LLaDAV] | None = None,
) -> tuple[Engine, CudaGraphs]:
    """An engine whose cached steps run in padded buffers of these sizes, without a GPU."""
    engine = engine_of(model, adapters=adapters)
    weights, current = engine._runner._weights, engine._runner._adapters
    graphs = CudaGraphs(weights.tower, engine.kv_cache, sizes, budget, recorder, current)
    engine._runner = ModelRunner(weights, engine.kv_cache, graphs, current)
    return engine, graphs


def replays_of(graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch) -> list[tuple[GraphSize, int, int]]:
    """Size, positions and branches of each step that ran as a graph; filled while the engine runs."""
    forward, replays = graphs.forward, list[tuple[GraphSize, int, int]]()

    def spied(size: GraphSize, inputs: Any, positions: Any, spans: Any) -> Any:
        replays.append((size, len(inputs), len(spans)))
        return forward(size, inputs, positions, spans)

    monkeypatch.setattr(graphs, "forward", spied)
    return replays


SIZES = {
    "capture sizes": capture_sizes(4, 16, 8),
    "one that holds all": [GraphSize(128, 9)],
    "none for steps of many rows": [GraphSize(32, 3), GraphSize(64, 3)],
}


@pytest.mark.parametrize(
    ("model", "requests"),
    [(MODEL, REQUESTS), (NEXT_TOKEN_MODEL, NEXT_TOKEN_REQUESTS)],
    ids=["masked", "next token"],
)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.usefixtures("flash")
def test_padded_buffers_change_no_answer(
    sizes: list[GraphSize], model: LLaDAV, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recorder = answers(engine_of(model), requests), FakeRecorder()
    engine, graphs = graphed(sizes, recorder, model=model)
    replays = replays_of(graphs, monkeypatch)
    found = answers(engine, requests)
    assert {name: answer.tokens for name, answer in found.items()} == {
        name: answer.tokens for name, answer in plain.items()
    }
    assert replays
    assert all(size.positions >= positions and size.rows > branches for size, positions, branches in replays)
    assert len(recorder.recorded) == len(sizes), "a graph was captured while requests ran"
    assert engine.kv_cache.free_blocks == engine.kv_cache.total_blocks - 1


@pytest.mark.usefixtures("flash")
def test_graphs_hold_rows_of_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    own = adapters_of(MODEL)
    engine, graphs = graphed(capture_sizes(4, 16, 8), FakeRecorder(), adapters=own)
    replays = replays_of(graphs, monkeypatch)
    found = answers(engine, REQUESTS, [None, *own])
    assert replays
    expected = [answers(engine_of(model)) for model in (MODEL, *map(merged, own.values()))]
    for number in range(len(REQUESTS)):
        alone = expected[number % len(expected)][str(number)]
        assert found[str(number)].tokens == alone.tokens


@pytest.mark.usefixtures("flash")
def test_graphs_are_captured_the_largest_first_and_share_their_buffers() -> None:
    recorder = FakeRecorder()
    _, graphs = graphed(capture_sizes(4, 64, 8), recorder)
    steps = [graphs._graphs[size][0] for size in reversed(graphs.sizes)]
    assert [each.__self__ for each in recorder.recorded] == steps  # pyright: ignore[reportFunctionMemberAccess]
    assert len({step.hidden_TW.data_ptr() for step in steps}) == 1
    assert len({step._inputs_TW.data_ptr() for step in steps}) == 1


@pytest.mark.usefixtures("flash")
def test_graphs_above_the_budget_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    sizes = capture_sizes(4, 16, 8)
    engine, graphs = graphed(sizes, FakeRecorder(each=10), budget=25)
    assert graphs.sizes == sorted(sizes)[-2:]
    assert "2 of" in caplog.text
    assert "raise engine.graph_bytes" in caplog.text
    assert len(answers(engine)) == len(REQUESTS)
    engine, graphs = graphed(sizes, FakeRecorder(each=10), budget=9)
    assert graphs.sizes == []
    assert len(answers(engine)) == len(REQUESTS)


@pytest.mark.usefixtures("flash")
def test_a_step_uses_the_smallest_graph_that_is_large_enough() -> None:
    _, graphs = graphed([GraphSize(32, 4), GraphSize(64, 4), GraphSize(64, 16)], FakeRecorder())
    assert graphs.size_for(20, 3) == GraphSize(32, 4)
    assert graphs.size_for(33, 1) == GraphSize(64, 4)
    assert graphs.size_for(20, 4) == GraphSize(64, 16)
    assert graphs.size_for(65, 1) is None
    assert graphs.size_for(20, 16) is None


@given(st.integers(1, 64), st.integers(1, 600), st.integers(1, 64), st.data())
def test_capture_sizes_hold_every_step_of_whole_blocks(
    rows: int, canvas: int, block: int, data: st.DataObject
) -> None:
    """Each answer forwards one block at least and the canvas at most, twice with guidance."""
    sizes = capture_sizes(rows, canvas, block)
    assert sizes == sorted(set(sizes))
    assert len(sizes) <= 80
    branches = data.draw(st.integers(1, 2 * rows))
    lengths = [data.draw(st.integers(min(block, canvas), canvas)) for _ in range(branches)]
    if sum(lengths) <= MAX_POSITIONS:
        large_enough = [s for s in sizes if s.positions >= sum(lengths) and s.rows > branches]
        assert large_enough
        padding = large_enough[0].positions - sum(lengths)
        assert (
            padding < max(POSITION_STEP, sum(lengths) / 4) or large_enough[0].positions == sizes[0].positions
        )


def test_unsupported_models_have_no_graphs(caplog: pytest.LogCaptureFixture) -> None:
    def weight(dtype: torch.dtype) -> Any:
        return SimpleNamespace(is_cuda=True, dtype=dtype)

    config = MODEL.config
    assert supports_cuda_graphs(config, weight(torch.bfloat16))
    assert not supports_cuda_graphs(config, weight(torch.float32))
    assert supports_cuda_graphs(NEXT_TOKEN_MODEL.config, weight(torch.bfloat16))
    for attention in (Attention.dialogue_causal, Attention.causal):
        assert not supports_cuda_graphs(replace(config, attention=attention), weight(torch.bfloat16))
    assert caplog.text.count("no CUDA graphs: they need bidirectional attention") == 3


@pytest.mark.gpu
@pytest.mark.parametrize("with_adapters", [False, True])
def test_graphs_on_a_gpu_change_no_answer(with_adapters: bool) -> None:
    model = tiny_model().to("cuda", torch.bfloat16)
    own = adapters_of(model) if with_adapters else {}
    plain, graphed = (
        answers(engine_of(model, sizes, own), REQUESTS, [None, *own])
        for sizes in ([], capture_sizes(4, 16, 8))
    )
    assert {name: answer.tokens for name, answer in graphed.items()} == {
        name: answer.tokens for name, answer in plain.items()
    }


@pytest.mark.gpu
def test_all_sizes_are_captured_on_a_gpu_and_their_memory_is_counted() -> None:
    model = tiny_model().to("cuda", torch.bfloat16)
    sizes = capture_sizes(16, 64, 8)
    graphs = engine_of(model, sizes)._runner._graphs
    assert graphs is not None
    assert graphs.sizes == sizes
    recorder = CudaGraphRecorder()
    kept = torch.zeros(2**26, dtype=torch.uint8, device="cuda")
    assert recorder.used >= kept.nbytes
