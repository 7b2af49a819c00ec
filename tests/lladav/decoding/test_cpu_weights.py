"""Prepacked weights give the same products and leave the model unchanged."""

from __future__ import annotations

import pytest
from torch import nn

from lladav.decoding import cpu_weights
from lladav.decoding.cpu_weights import DecodingWeights, PrepackedLinear, fastest_dtype
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from tests.lladav.build import text_sample, tiny_model

MODEL = tiny_model(std=0.3)


def prepacked_layers(module: nn.Module) -> int:
    return sum(isinstance(each, PrepackedLinear) for each in module.modules())


def test_a_prepacked_tower_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [text_sample(str(n), 5 + 7 * n, n) for n in range(3)]
    options = DecodingOptions(max_tokens=8, refresh_interval=3)
    plain = decode(MODEL, prompts, options)
    monkeypatch.setattr(cpu_weights, "MIN_PREPACKED_BYTES", 0)
    assert [answer.tokens for answer in decode(MODEL, prompts, options)] == [each.tokens for each in plain]


def test_only_large_layers_are_prepacked_in_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = MODEL.language.layers
    linears = [each for each in layers.modules() if isinstance(each, nn.Linear)]
    largest = max(each.weight.nbytes for each in linears)
    monkeypatch.setattr(cpu_weights, "MIN_PREPACKED_BYTES", largest)
    twin = DecodingWeights(MODEL.language).tower
    assert prepacked_layers(twin) == sum(each.weight.nbytes == largest for each in linears) > 0
    assert prepacked_layers(MODEL.language) == 0
    assert twin.norm.weight is MODEL.language.norm.weight


def test_a_tower_above_the_limit_is_not_prepacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_weights, "MIN_PREPACKED_BYTES", 0)
    assert DecodingWeights(MODEL.language, prepack_limit=1).tower is MODEL.language


@pytest.mark.parametrize(("flag", "fastest"), [("amx_bf16", "bfloat16"), ("avx2", "float32")])
def test_the_fastest_dtype_depends_on_the_processor(flag: str, fastest: str) -> None:
    assert fastest_dtype("cpu", {flag: True}) == fastest
    assert fastest_dtype("cuda", {flag: True}) == "bfloat16"
