"""Packed weights give the same products, and leave the model as it is."""

from __future__ import annotations

import pytest
from torch import nn

from lladav.decoding import cpu_weights as weights
from lladav.decoding.cpu_weights import DecodingWeights, PackedLinear, best_dtype
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from tests.lladav.build import text_sample, tiny_model

MODEL = tiny_model(std=0.3)


def packed_layers(module: nn.Module) -> int:
    return sum(isinstance(each, PackedLinear) for each in module.modules())


def test_a_packed_tower_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [text_sample(str(n), 5 + 7 * n, n) for n in range(3)]
    options = DecodingOptions(max_tokens=8, refresh_interval=3)
    plain = decode(MODEL, prompts, options)
    monkeypatch.setattr(weights, "WORTH_PACKING", 0)
    assert [answer.tokens for answer in decode(MODEL, prompts, options)] == [each.tokens for each in plain]


def test_large_layers_alone_are_packed_in_a_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = MODEL.language.layers
    linears = [each for each in layers.modules() if isinstance(each, nn.Linear)]
    largest = max(each.weight.nbytes for each in linears)
    monkeypatch.setattr(weights, "WORTH_PACKING", largest)
    twin = DecodingWeights(MODEL.language).tower
    assert packed_layers(twin) == sum(each.weight.nbytes == largest for each in linears) > 0
    assert packed_layers(MODEL.language) == 0
    assert twin.norm.weight is MODEL.language.norm.weight


def test_a_tower_above_the_budget_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WORTH_PACKING", 0)
    assert DecodingWeights(MODEL.language, packed_bytes=1).tower is MODEL.language


@pytest.mark.parametrize(("flag", "fastest"), [("amx_bf16", "bfloat16"), ("avx2", "float32")])
def test_the_fastest_type_is_what_the_processor_multiplies(flag: str, fastest: str) -> None:
    assert best_dtype("cpu", {flag: True}) == fastest
    assert best_dtype("cuda", {flag: True}) == "bfloat16"
