"""Cached steps in buffers of round sizes, as CUDA graphs have them, give the same answers."""

from __future__ import annotations

import pytest
import torch

from lladav.decoding import cached_attention, runner
from lladav.decoding.engine import Decoded, Engine
from lladav.decoding.graphs import GraphedSteps, Work
from lladav.decoding.memory import PAGE, bytes_of_page
from lladav.decoding.options import Cache, DecodingOptions
from lladav.decoding.runner import Runner
from lladav.decoding.weights import DecodingWeights
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import text_sample, tiny_model
from tests.lladav.decoding.test_cached_attention import flash_on_a_cpu

MODEL = tiny_model()
REQUESTS = [
    (300, DecodingOptions(max_tokens=12, refresh_interval=4)),
    (7, DecodingOptions(max_tokens=16, block_length=8, refresh_interval=8, cache=Cache.dual)),
    (40, DecodingOptions(max_tokens=8, refresh_interval=None, guidance=0.5)),
    (90, DecodingOptions(max_tokens=10, refresh_interval=3, suffix=(5, 6))),
]


def answers(engine: Engine) -> dict[str, Decoded]:
    """Of requests that come one step after another."""
    found: dict[str, Decoded] = {}
    waiting = [(text_sample(str(n), length, n), options) for n, (length, options) in enumerate(REQUESTS)]
    while waiting or engine.busy:
        if waiting:
            engine.submit(*waiting.pop(0))
        found |= {each.id: each.answer for each in engine.step() if each.answer is not None}
    return found


def engine_of(model: LLaDAV, cuda_graphs: bool = False) -> Engine:
    weight = model.newline
    return Engine(
        model, 16 * bytes_of_page(model.config.language, weight.dtype, PAGE), cuda_graphs=cuda_graphs
    )


def test_padded_buffers_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answers(engine_of(MODEL))
    recorded: list[Work] = []

    def record(work: Work) -> Work:
        recorded.append(work)
        return work

    def flash(query, keys, values, query_bounds, key_bounds, longest_query, longest_key, **settings):
        assert longest_query >= int(query_bounds.diff().max())
        assert longest_key >= int(key_bounds.diff().max())
        longest = int(query_bounds.diff().max()), int(key_bounds.diff().max())
        settings["enable_gqa"] = True
        return flash_on_a_cpu(query, keys, values, query_bounds, key_bounds, *longest, **settings)

    monkeypatch.setattr(cached_attention, "varlen_attn", flash)
    for module in (cached_attention, runner):
        monkeypatch.setattr(module, "can_flash", lambda *_: True)
    engine = engine_of(MODEL)
    weights = DecodingWeights(MODEL.language)
    engine._runner = Runner(weights, engine.memory, GraphedSteps(weights.tower, engine.memory, record))
    found = answers(engine)
    assert recorded
    assert {name: answer.tokens for name, answer in found.items()} == {
        name: answer.tokens for name, answer in plain.items()
    }
    assert engine.memory.table.free == engine.memory.table.total - 1


@pytest.mark.gpu
def test_graphs_on_a_gpu_change_no_answer() -> None:
    model = tiny_model().to("cuda", torch.bfloat16)
    plain, graphed = (answers(engine_of(model, cuda_graphs)) for cuda_graphs in (False, True))
    assert {name: answer.tokens for name, answer in graphed.items()} == {
        name: answer.tokens for name, answer in plain.items()
    }
