"""Attention metrics (Eq. 7-9)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.analysis.attention import (
    AttentionMetrics,
    attention_metrics,
    attention_received,
    attention_weights,
    entropy_bits,
    future_looking,
)
from lladav.config.schema import Attention
from lladav.inputs.packing import PackedBatch, pack
from lladav.inputs.samples import Sample
from lladav.model.attention import PackedAttention
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import (
    image_sample,
    prompt_sample,
    text_of,
    text_sample,
    tiny_config,
    tiny_model,
    variant,
    with_repeated_keys_and_values,
)
from tests.memory import needs_peak_memory, run_program


def test_golden_metrics(golden: Any, released: LLaDAV) -> None:
    expected = golden.cases["attention_metrics"]
    measured = attention_metrics(released, golden_batch(golden, released))
    future_K, entropy_K = measured.future_looking_SK.mean(0), measured.entropy_bits_SK.mean(0)
    share = measured.first_is_largest_SK.mean().item()
    assert future_K.tolist() == pytest.approx(expected["per_layer_future"], abs=1e-4)
    assert entropy_K.tolist() == pytest.approx(expected["per_layer_entropy_bits"], abs=1e-4)
    assert future_K.mean().item() == pytest.approx(expected["future_looking_ratio"], abs=1e-4)
    assert entropy_K.mean().item() == pytest.approx(expected["entropy_bits"], abs=1e-4)
    assert measured.sink_score_S.mean().item() == pytest.approx(expected["sink_score_first_token"], abs=1e-4)
    assert share == pytest.approx(expected["first_token_is_max_fraction"], abs=1e-6)


def test_golden_weights_of_the_first_layer(golden: Any, released: LLaDAV) -> None:
    packed = golden_batch(golden, released)
    keep = _KeepFirstLayer(packed)
    with torch.no_grad():
        released.hidden(packed, keep)
    expected = golden.tensors["attention.weights_layer0"]
    torch.testing.assert_close(torch.stack(keep.samples), expected, atol=1e-5, rtol=0)


def test_uniform_attention() -> None:
    uniform = torch.full((1, 4, 4), 0.25)
    assert future_looking(uniform).tolist() == [pytest.approx([0.75, 0.5, 0.25, 0])]
    assert entropy_bits(uniform).tolist() == [pytest.approx([2.0] * 4)]
    assert attention_received(uniform).tolist() == [pytest.approx([1.0] * 4)]


def test_attention_to_the_position_itself() -> None:
    assert future_looking(torch.eye(3)[None]).tolist() == [[0, 0, 0]]
    assert entropy_bits(torch.eye(3)[None]).tolist() == [[0, 0, 0]]


def test_later_positions_of_a_chunk_are_those_behind_its_own_queries() -> None:
    weights = torch.rand(2, 6, 6).softmax(-1)
    torch.testing.assert_close(future_looking(weights[:, 4:], first=4), future_looking(weights)[:, 4:])


@pytest.mark.parametrize("pattern", Attention)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("chunk_weights", [1, 100])
def test_chunks_give_the_metrics_of_the_whole(pattern: Attention, kv_heads: int, chunk_weights: int) -> None:
    model = variant(tiny_model(tiny_config(kv_heads=kv_heads)), attention=pattern)
    turns = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    samples = [Sample("a", text_of(list(range(9)), turns=turns)), text_sample("b", 7)]
    packed = pack(samples, model.geometry)
    whole, chunked = attention_metrics(model, packed), attention_metrics(model, packed, chunk_weights)
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(chunked, name), value, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_a_causal_model_does_not_attend_to_later_positions(seed: int) -> None:
    model = tiny_model(seed=seed)
    packed = pack([text_sample("a", 12), image_sample("b", model.geometry, [(40, 30)])], model.geometry)
    causal = attention_metrics(variant(model, attention=Attention.causal), packed)
    assert not causal.future_looking_SK.any()
    assert bool((attention_metrics(model, packed).future_looking_SK > 0.2).all())


def test_sink_is_the_largest_first_position_above_sigma() -> None:
    model = model_that_attends_evenly()
    packed = pack([text_sample("a", 8), text_sample("b", 4)], model.geometry)
    metrics = attention_metrics(model, packed)
    between = metrics.sink_score_S.mean().item()
    assert metrics.sink_score_S[0] < between < metrics.sink_score_S[1]
    assert metrics.sink_S(between).tolist() == [False, True]
    assert metrics.sink_S(0.0).tolist() == [True, True]


def test_a_first_position_with_less_attention_than_another_is_no_sink() -> None:
    metrics = attention_metrics(tiny_model(), pack([text_sample("a", 9)], tiny_model().geometry))
    assert metrics.sink_S(0.0).tolist() == metrics.first_is_largest_S.tolist() == [False]


def model_that_attends_evenly() -> LLaDAV:
    """Causal attention with equal weights: the first position receives the most."""
    model = variant(tiny_model(), attention=Attention.causal)
    for layer in model.language.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model


def test_a_sample_has_the_same_metrics_alone_and_in_a_batch() -> None:
    model = tiny_model(tiny_config(kv_heads=2))
    first, second = text_sample("a", 9, seed=1), text_sample("b", 5, seed=2)
    alone = [attention_metrics(model, pack([sample], model.geometry)) for sample in (first, second)]
    both = attention_metrics(model, pack([first, second], model.geometry))
    for name, value in vars(AttentionMetrics.concatenate(alone)).items():
        torch.testing.assert_close(getattr(both, name), value, msg=name)


def test_grouped_heads_are_measured_like_the_equivalent_full_heads() -> None:
    grouped, full = tiny_model(tiny_config(layers=1, kv_heads=2)), tiny_model(tiny_config(layers=1))
    full.load_state_dict(with_repeated_keys_and_values(grouped, times=2))
    packed = pack([text_sample("a", 9)], full.geometry)
    one, other = (attention_metrics(model, packed) for model in (grouped, full))
    torch.testing.assert_close(one.future_looking_SK, other.future_looking_SK)
    torch.testing.assert_close(one.entropy_bits_SK, other.entropy_bits_SK)


MEASURE = """
import json
import torch
from lladav.analysis.attention import CHUNK_WEIGHTS, attention_metrics
from lladav.inputs.packing import pack
from tests.lladav.build import text_sample, tiny_config, tiny_model
from tests.memory import peak_above

LENGTH, HEADS = 3000, 32
model = tiny_model(tiny_config(width=512, layers=1, heads=HEADS, kv_heads=HEADS), std=0.02)
packed = pack([text_sample("a", LENGTH)], model.geometry)
with torch.no_grad():
    model.hidden(packed)
    forward = peak_above(lambda: model.hidden(packed))
    measured = peak_above(lambda: attention_metrics(model, packed))
print(json.dumps({
    "added": measured - forward,
    "formula": 3 * 4 * CHUNK_WEIGHTS,
    "weights of a layer": 4 * HEADS * LENGTH**2,
}))
"""


@pytest.mark.slow
@needs_peak_memory
def test_memory_is_that_of_a_chunk() -> None:
    measured = run_program(MEASURE)
    slack = 64 * 2**20
    assert measured["weights of a layer"] > 5 * measured["formula"]
    assert measured["added"] < measured["formula"] + slack


class _KeepFirstLayer:
    """An ``Attend`` that keeps the weights (H, L, L) of every sample in layer 0."""

    def __init__(self, packed: PackedBatch) -> None:
        self._attention = PackedAttention(packed.lengths)
        self.samples: list[Tensor] = []

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        if layer == 0:
            pairs = zip(*(x.split(self._attention.lengths) for x in (query_THD, key_THD)), strict=True)
            self.samples = [attention_weights(query, key) for query, key in pairs]
        return self._attention(layer, query_THD, key_THD, value_THD)


def golden_batch(golden: Any, model: LLaDAV) -> PackedBatch:
    rows = golden.tensors["attention.input_ids"]
    return pack([prompt_sample(row.tolist()) for row in rows], model.geometry)
