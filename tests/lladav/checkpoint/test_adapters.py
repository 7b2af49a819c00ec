"""Adapters in the format of ``peft``, which is the oracle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lladav.checkpoint import (
    AdapterBase,
    adapter_in,
    convert,
    export,
    export_adapter,
    load,
    load_adapter,
    model_config_of,
    open_adapter,
    open_model,
)
from lladav.checkpoint.adapters import ADAPTER_WEIGHTS
from lladav.checkpoint.index import ADAPTER_CONFIG
from lladav.config.schema import LoraConfig, LoraTarget, ModelPart
from lladav.errors import UserError
from lladav.inputs.packing import pack
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import add_lora, lora_parameters
from tests.lladav.build import image_sample, text_sample, tiny_config, tiny_model

if TYPE_CHECKING:
    from peft import PeftModel

LORA = LoraConfig(rank=4, alpha=6)
TOWERS = (ModelPart.language, ModelPart.vision)


def adapted_model(lora: LoraConfig = LORA, towers: tuple[ModelPart, ...] = TOWERS, seed: int = 0) -> LLaDAV:
    """The tiny model with random adapters, which alone are trained."""
    model = tiny_model(seed=seed).requires_grad_(False)
    add_lora(model, lora, towers)
    generator = torch.Generator().manual_seed(1)
    for parameter in lora_parameters(model).values():
        parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def write(folder: Path, model: LLaDAV, lora: LoraConfig = LORA) -> Path:
    """Export the base and the adapter; returns the adapter's folder."""
    export(tiny_model(), tiny_config(), folder / "base")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    export_adapter(trained, model.config, lora, AdapterBase.of(str(folder / "base")), folder / "adapter")
    return folder / "adapter"


@pytest.fixture
def trained() -> LLaDAV:
    """A model with random adapters and a projector that is trained in full."""
    model = adapted_model()
    for parameter in model.projector.requires_grad_(True).parameters():
        parameter.data.add_(0.3)
    return model


@pytest.fixture
def folder(trained: LLaDAV, tmp_path: Path) -> Path:
    return write(tmp_path, trained)


@torch.no_grad()
def logits(model: LLaDAV) -> Tensor:
    samples = [text_sample("text", 9), image_sample("image", model.geometry, [(40, 28)])]
    return model.language.lm_head(model.hidden(pack(samples, model.geometry)))


class ReleasedTree(nn.Module):
    """The modules of a model below the names that they have in the released code."""

    def __init__(self, model: LLaDAV) -> None:
        super().__init__()
        language = model.language
        tower = nn.ModuleDict({"vision_tower": nn.ModuleDict({"vision_model": model.vision.vision_model})})
        parts: dict[str, nn.Module] = {
            name: language.get_submodule(name) for name in ("embed_tokens", "layers")
        }
        self.model = nn.ModuleDict({**parts, "mm_projector": model.projector, "vision_tower": tower})
        self.lm_head = language.lm_head


def opened_by_peft(folder: Path) -> tuple[PeftModel, LLaDAV]:
    """The base with layers of ``peft``; modules that were trained in full are the copies of ``peft``."""
    from peft import PeftModel  # its import takes two seconds, in every process that collects tests

    model = tiny_model().requires_grad_(False)
    tree = ReleasedTree(model)
    opened = PeftModel.from_pretrained(tree, str(folder))
    model.projector = tree.model["mm_projector"]  # pyright: ignore[reportAttributeAccessIssue]
    model.language.embed_tokens = tree.model["embed_tokens"]  # pyright: ignore[reportAttributeAccessIssue]
    model.language.lm_head = tree.lm_head
    return opened, model


def test_peft_opens_an_adapter_and_computes_the_same(folder: Path, trained: LLaDAV) -> None:
    _, model = opened_by_peft(folder)
    assert (logits(tiny_model()) - logits(trained)).abs().max() > 0.1
    torch.testing.assert_close(logits(model), logits(trained))


def test_an_adapter_saved_by_peft_loads_and_computes_the_same(folder: Path, tmp_path: Path) -> None:
    opened, model = opened_by_peft(folder)
    with torch.no_grad():
        for name, parameter in opened.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.mul_(1.5)
    opened.save_pretrained(str(tmp_path / "saved"))
    found = adapter_in(tmp_path / "saved")
    assert found
    mine = adapted_model()
    mine.projector.requires_grad_(True)
    load_adapter(mine, found)
    torch.testing.assert_close(logits(mine), logits(model))
    beside = open_adapter(open_model(folder.parent / "base", torch.float32), tmp_path / "saved")
    torch.testing.assert_close(logits(beside), logits(model))


def test_an_adapter_may_have_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    trained = adapted_model()
    for parameter in trained.vocabulary():
        parameter.requires_grad_(True).data.mul_(1.5)
    folder = write(tmp_path, trained)
    _, model = opened_by_peft(folder)
    torch.testing.assert_close(logits(model), logits(trained))
    torch.testing.assert_close(logits(open_model(folder, torch.float32)), logits(trained))
    with pytest.raises(UserError, match=r"merge the adapter with train/export\.py"):
        open_adapter(open_model(tmp_path / "base", torch.float32), folder)


@pytest.mark.parametrize("towers", [(ModelPart.language,), (ModelPart.vision,)])
def test_peft_adapts_no_other_layers(towers: tuple[ModelPart, ...], tmp_path: Path) -> None:
    lora = replace(LORA, targets=[LoraTarget.q_proj, LoraTarget.k_proj])
    trained = adapted_model(lora, towers)
    _, model = opened_by_peft(write(tmp_path, trained, lora))
    torch.testing.assert_close(logits(model), logits(trained))
    in_peft = sum("lora_A" in name for name, _ in model.named_parameters())
    assert in_peft == len(lora_parameters(trained)) / 2


def test_opening_an_adapter_merges_it_into_its_base(folder: Path, trained: LLaDAV) -> None:
    torch.testing.assert_close(logits(open_model(folder, torch.float32)), logits(trained))
    assert model_config_of(folder).images == tiny_config().images


def test_a_conversion_merges_in_float32(folder: Path, trained: LLaDAV, tmp_path: Path) -> None:
    convert(folder, tmp_path / "merged")
    assert not (tmp_path / "merged" / ADAPTER_CONFIG).exists()
    merged = open_model(tmp_path / "merged", torch.float32)
    torch.testing.assert_close(logits(merged), logits(trained))
    rounding = (logits(merged) - logits(trained)).abs().max() / logits(trained).abs().max()
    assert rounding < 1e-5


def test_a_half_precision_base_is_merged_in_float32_and_rounded_once(trained: LLaDAV, tmp_path: Path) -> None:
    adapter = write(tmp_path, trained)
    base = tiny_model().bfloat16()
    export(base, tiny_config(), tmp_path / "half")
    point_to(adapter, AdapterBase.of(str(tmp_path / "half")))
    exact = values_of(tmp_path / "exact", adapter, torch.float32)
    rounded = values_of(tmp_path / "rounded", adapter)
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}
    name, ours = "model.layers.0.self_attn.q_proj", "language.layers.0.self_attn.q_proj"
    update = dict(trained.get_submodule(ours).named_parameters())
    weight = base.get_parameter(f"{ours}.weight")
    merged = weight.float() + 1.5 * update["lora_B.weight"] @ update["lora_A.weight"]
    torch.testing.assert_close(exact[f"{name}.weight"], merged)
    assert torch.equal(rounded[f"{name}.weight"], exact[f"{name}.weight"].bfloat16())


def values_of(folder: Path, adapter: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    convert(adapter, folder, dtype=dtype)
    return load_file(folder / "model.safetensors")


def point_to(adapter: Path, base: AdapterBase) -> None:
    """Give an adapter another base."""
    change(adapter, base_model_name_or_path=base.path)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    save_file(tensors, adapter / ADAPTER_WEIGHTS, {"format": "pt", "base_digest": str(base.digest)})


def change(adapter: Path, **values: Any) -> None:
    file = adapter / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_adapter_loads_unmerged_into_adapted_layers(folder: Path, trained: LLaDAV) -> None:
    found = adapter_in(folder)
    assert found
    model = adapted_model(seed=3)
    model.projector.requires_grad_(True)
    loaded = load_adapter(model, found)
    expected = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    assert loaded == expected.keys()
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters() if name in loaded)


def test_a_part_of_a_merged_model_can_be_loaded(folder: Path, trained: LLaDAV) -> None:
    model = tiny_model(seed=9)
    loaded = load(model, folder, parts=[ModelPart.projector])
    assert loaded == {f"projector.{name}" for name, _ in trained.projector.named_parameters()}
    assert all(torch.equal(model.get_parameter(name), trained.get_parameter(name)) for name in loaded)


def test_the_files_hold_only_what_was_trained(folder: Path, trained: LLaDAV) -> None:
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    count = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    assert sum(tensor.numel() for tensor in tensors.values()) == count
    assert {file.name for file in folder.iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"use_dora": True}, "use_dora is True; only adapters with False can be used"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only adapters with 'LORA' can be used"),
        ({"r": None}, "needs numbers r and lora_alpha"),
        ({"base_model_name_or_path": "/none"}, "base_model_name_or_path=/none: no such weights; correct"),
        ({"r": 5}, r"lora_A\.weight has shape \[4, \d+\]; expected \[5, \d+\]"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(
    folder: Path, changed: Mapping[str, Any], line: str
) -> None:
    change(folder, **changed)
    with pytest.raises(UserError, match=line):
        open_model(folder, torch.float32)


def test_a_changed_base_is_noticed(folder: Path, tmp_path: Path) -> None:
    export(tiny_model(seed=5), tiny_config(), tmp_path / "other")
    change(folder, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(
        UserError, match=r"other: has other weights than those that the adapter was trained with"
    ):
        open_model(folder, torch.float32)


def test_tensors_without_a_place_are_refused(folder: Path) -> None:
    found = adapter_in(folder)
    assert found
    with pytest.raises(UserError, match=r"has model\.mm_projector\.0\.\w+, which this run does not train"):
        load_adapter(adapted_model(), found)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    save_file(
        {**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}, folder / ADAPTER_WEIGHTS
    )
    with pytest.raises(UserError, match=r"lm_head\.lora_B\.weight is missing"):
        open_model(folder, torch.float32)


def test_other_settings_are_refused(folder: Path) -> None:
    found = adapter_in(folder)
    assert found
    found.check_settings(LORA)
    with pytest.raises(
        UserError, match=r"has rank 4 and alpha 6; set train\.lora\.rank=4 train\.lora\.alpha=6"
    ):
        found.check_settings(LoraConfig(rank=4, alpha=8))
