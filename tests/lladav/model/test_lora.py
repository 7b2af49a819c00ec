"""Adapters of linear layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lladav.config.choices import LORA_TARGETS
from lladav.config.schema import LoraConfig, LoraTarget, ModelPart
from lladav.inputs.packing import pack
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import LoraLinear, add_lora, lora_parameters
from tests.lladav.build import image_sample, text_sample, tiny_model

TOWERS = (ModelPart.language, ModelPart.vision)


def hidden(model: LLaDAV) -> torch.Tensor:
    samples = [text_sample("text", 9), image_sample("image", model.geometry, [(40, 28)])]
    return model.hidden(pack(samples, model.geometry))


@pytest.mark.parametrize("tower", TOWERS)
def test_the_schema_lists_the_linear_layers_of_each_tower(tower: ModelPart) -> None:
    linear = [
        name for name, m in tiny_model().get_submodule(tower).named_modules() if isinstance(m, nn.Linear)
    ]
    assert {name.rpartition(".")[2] for name in linear} == set(LORA_TARGETS[tower])


def test_new_adapters_change_no_output() -> None:
    model = tiny_model()
    before = hidden(model)
    add_lora(model, LoraConfig(rank=4), TOWERS)
    initialize(lora_parameters(model).items(), seed=1)
    assert torch.equal(hidden(model), before)
    downs = [p for name, p in lora_parameters(model).items() if "lora_A" in name]
    assert all(p.abs().max() > 0 for p in downs)


def test_an_adapter_adds_alpha_over_rank_times_b_a() -> None:
    layer = nn.Linear(6, 5)
    adapted = LoraLinear(layer, rank=2, alpha=3)
    inputs = torch.randn(7, 6)
    weight = layer.weight + 3 / 2 * adapted.lora_B.weight @ adapted.lora_A.weight
    torch.testing.assert_close(adapted(inputs), nn.functional.linear(inputs, weight, layer.bias))


def test_only_target_layers_of_the_given_towers_are_adapted() -> None:
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]
    add_lora(model, LoraConfig(targets=[LoraTarget.q_proj, LoraTarget.down_proj]), [ModelPart.language])
    layers = [
        f"language.layers.{i}.{layer}" for i in range(3) for layer in ("self_attn.q_proj", "mlp.down_proj")
    ]
    expected = {f"{layer}.lora_{matrix}.weight" for layer in layers for matrix in "AB"}
    assert lora_parameters(model).keys() == expected
    assert [name for name, _ in model.named_parameters() if name not in expected] == names


def test_adapters_have_the_number_format_of_their_layer() -> None:
    model = tiny_model().bfloat16()
    add_lora(model, LoraConfig(), TOWERS)
    assert {p.dtype for p in lora_parameters(model).values()} == {torch.bfloat16}
