"""Attention metrics (Eq. 7-9)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.analysis.attention import (
    attention_metrics,
    attention_received,
    attention_weights,
    entropy_bits,
    future_looking,
)
from lladav.config.schema import Attention
from lladav.inputs.packing import PackedBatch, pack
from lladav.model.attention import PackedAttention
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import (
    prompt_sample,
    text_sample,
    tiny_config,
    tiny_model,
    variant,
    with_repeated_keys_and_values,
)


def test_golden_metrics(golden: Any, released: LLaDAV) -> None:
    expected = golden.cases["attention_metrics"]
    measured = attention_metrics(released, golden_batch(golden, released), sigma=0.0)
    assert measured.future_looking_K.tolist() == pytest.approx(expected["per_layer_future"], abs=1e-4)
    assert measured.entropy_bits_K.tolist() == pytest.approx(expected["per_layer_entropy_bits"], abs=1e-4)
    assert measured.future_looking_K.mean().item() == pytest.approx(
        expected["future_looking_ratio"], abs=1e-4
    )
    assert measured.entropy_bits_K.mean().item() == pytest.approx(expected["entropy_bits"], abs=1e-4)
    assert measured.sink_score_S.mean().item() == pytest.approx(expected["sink_score_first_token"], abs=1e-4)
    assert measured.first_is_largest == pytest.approx(expected["first_token_is_max_fraction"], abs=1e-6)


def test_golden_weights_of_the_first_layer(golden: Any, released: LLaDAV) -> None:
    packed = golden_batch(golden, released)
    keep = _KeepFirstLayer(packed)
    with torch.no_grad():
        released.hidden(packed, keep)
    expected = golden.tensors["attention.weights_layer0"]
    torch.testing.assert_close(torch.stack(keep.samples), expected, atol=1e-5, rtol=0)


def test_uniform_attention() -> None:
    uniform = torch.full((4, 4), 0.25)
    assert future_looking(uniform).item() == pytest.approx((3 + 2 + 1 + 0) / 4 / 4)
    assert entropy_bits(uniform).item() == pytest.approx(2.0)
    assert attention_received(uniform).tolist() == pytest.approx([0.25] * 4)


def test_attention_to_the_position_itself() -> None:
    assert future_looking(torch.eye(3)).item() == 0
    assert entropy_bits(torch.eye(3)).item() == 0


def test_a_causal_model_does_not_attend_to_later_positions() -> None:
    model = variant(tiny_model(), attention=Attention.causal)
    measured = attention_metrics(model, pack([text_sample("a", 12)], model.geometry), sigma=0.5)
    assert measured.future_looking_K.tolist() == [0.0] * model.config.language.layers


def test_sink_is_the_largest_first_position_above_sigma() -> None:
    model = model_that_attends_evenly()
    packed = pack([text_sample("a", 8), text_sample("b", 4)], model.geometry)
    scores = attention_metrics(model, packed, sigma=0.0).sink_score_S
    between = scores.mean().item()
    assert scores[0] < between < scores[1]
    assert attention_metrics(model, packed, between).sink_S.tolist() == [False, True]


def model_that_attends_evenly() -> LLaDAV:
    """Causal attention with equal weights: the first position receives the most."""
    model = variant(tiny_model(), attention=Attention.causal)
    for layer in model.language.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model


def test_metrics_are_averaged_over_samples() -> None:
    model = tiny_model(tiny_config(kv_heads=2))
    first, second = text_sample("a", 9, seed=1), text_sample("b", 5, seed=2)
    alone = [attention_metrics(model, pack([s], model.geometry), 0.1) for s in (first, second)]
    both = attention_metrics(model, pack([first, second], model.geometry), 0.1)
    mean = torch.stack([m.entropy_bits_K for m in alone]).mean(0)
    torch.testing.assert_close(both.entropy_bits_K, mean)
    torch.testing.assert_close(both.sink_score_S, torch.cat([m.sink_score_S for m in alone]))


def test_grouped_heads_are_measured_like_the_equivalent_full_heads() -> None:
    grouped, full = tiny_model(tiny_config(layers=1, kv_heads=2)), tiny_model(tiny_config(layers=1))
    full.load_state_dict(with_repeated_keys_and_values(grouped, times=2))
    packed = pack([text_sample("a", 9)], full.geometry)
    one, other = (attention_metrics(model, packed, 0.1) for model in (grouped, full))
    torch.testing.assert_close(one.future_looking_K, other.future_looking_K)
    torch.testing.assert_close(one.entropy_bits_K, other.entropy_bits_K)


class _KeepFirstLayer:
    """An ``Attend`` that keeps the weights (H, L, L) of every sample in layer 0."""

    def __init__(self, packed: PackedBatch) -> None:
        self._attention = PackedAttention(packed.lengths)
        self.samples: list[Tensor] = []

    def __call__(self, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
        if layer == 0:
            pairs = zip(*(x.split(self._attention.lengths) for x in (query_THD, key_THD)), strict=True)
            self.samples = [weights_of_heads(query, key) for query, key in pairs]
        return self._attention(layer, query_THD, key_THD, value_THD)


def weights_of_heads(query_LHD: Tensor, key_LHD: Tensor) -> Tensor:
    shared = query_LHD.shape[1] // key_LHD.shape[1]
    heads = range(query_LHD.shape[1])
    return torch.stack([attention_weights(query_LHD[:, h], key_LHD[:, h // shared], None) for h in heads])


def golden_batch(golden: Any, model: LLaDAV) -> PackedBatch:
    rows = golden.tensors["attention.input_ids"]
    return pack([prompt_sample(row.tolist()) for row in rows], model.geometry)
