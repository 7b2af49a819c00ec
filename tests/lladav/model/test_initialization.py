"""New weights are a pure function of seed and name, with the standard deviations of the published models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import tiny_config, tiny_model


def initialized(seed: int, **settings: object) -> dict[str, Tensor]:
    model = tiny_model(tiny_config(**settings), seed=9)
    initialize(model, seed)
    return dict(model.named_parameters())


def test_weights_depend_on_the_seed() -> None:
    first, again, other = initialized(1), initialized(1), initialized(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].unique().numel() > 1]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_a_parameter_does_not_depend_on_other_parameters() -> None:
    shallow, deep = initialized(1, layers=2), initialized(1, layers=4)
    assert all(torch.equal(shallow[name], deep[name]) for name in shallow)


def test_no_two_parameters_have_the_same_values() -> None:
    weights = initialized(1)
    query, key = (weights[f"language.layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    assert not torch.equal(query, key)


def test_skipped_parameters_keep_their_values() -> None:
    model, before = tiny_model(seed=9), dict(tiny_model(seed=9).named_parameters())
    skipped = {name for name in before if name.startswith(("language.", "vision."))}
    initialize(model, 1, skip=skipped)
    kept = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert kept == skipped


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("language.embed_tokens.weight", 0.02),
        ("language.layers.1.mlp.down_proj.weight", 0.02),
        ("language.lm_head.weight", 0.02),
        ("newline", 256**-0.5),
        ("projector.0.weight", 16**-0.5 / math.sqrt(3)),
        ("projector.2.bias", 256**-0.5 / math.sqrt(3)),
        ("vision.vision_model.embeddings.position_embedding.weight", 16**-0.5),
        ("vision.vision_model.embeddings.patch_embedding.weight", (3 * 7 * 7) ** -0.5),
        ("vision.vision_model.encoder.layers.0.mlp.fc1.weight", math.sqrt(2 / (16 + 24))),
        ("vision.vision_model.encoder.layers.0.mlp.fc1.bias", 1e-6),
    ],
)
def test_standard_deviations(name: str, std: float) -> None:
    values = initialized(1, width=256)[name]
    assert values.std().item() == pytest.approx(std, rel=0.2)
    assert values.mean().abs().item() < 5 * std / math.sqrt(values.numel())


def test_norms_start_as_identity_and_attention_biases_as_zero() -> None:
    weights = initialized(1)
    norms = {name: value for name, value in weights.items() if "norm" in name}
    assert len(norms) == 3 * 2 + 1 + 2 * 4 + 2
    assert all(bool((value == (1 if name.endswith("weight") else 0)).all()) for name, value in norms.items())
    assert not weights["vision.vision_model.encoder.layers.0.self_attn.q_proj.bias"].any()


def test_weights_in_bf16_are_the_rounded_ones() -> None:
    model = LLaDAV(tiny_config()).bfloat16()
    initialize(model, 1)
    exact = initialized(1)
    assert all(torch.equal(value, exact[name].bfloat16()) for name, value in model.named_parameters())
