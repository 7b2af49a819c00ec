"""Adapters that are opened without merging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lladav.checkpoint import check_model, export, open_adapter, open_adapters, open_model
from lladav.checkpoint.adapters import ADAPTER_WEIGHTS, PREFIX
from lladav.checkpoint.index import ADAPTER_CONFIG
from lladav.config.schema import LoraTarget, ModelPart
from lladav.errors import UserError
from lladav.inputs.packing import pack
from lladav.model.llada_v import LLaDAV
from lladav.storage import location, upload
from tests.lladav.adapted import LANGUAGE, RandomAdapter, saved
from tests.lladav.build import image_sample, packed_logits, text_sample, tiny_config, tiny_model

ADAPTERS = [
    RandomAdapter(),
    RandomAdapter(rank=1, alpha=3, targets=[LoraTarget.v_proj], seed=1),
    RandomAdapter(rank=3, towers=[*LANGUAGE, ModelPart.vision], projector=True, seed=2),
]

Change = Callable[[Path], None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a model."""
    export(tiny_model(), tiny_config(), tmp_path / "base")
    return tmp_path / "base"


def logits(model: LLaDAV) -> Tensor:
    samples = [text_sample("text", 9), image_sample("image", model.geometry, [(40, 28)])]
    return packed_logits(model, pack(samples, model.geometry))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["language", "values", "all parts"])
def test_an_open_adapter_computes_what_the_merged_model_does(
    base: Path, tmp_path: Path, adapter: RandomAdapter
) -> None:
    folder = saved(adapter, base, tmp_path / "adapter")
    model = open_model(base, torch.float32)
    before = logits(model)
    opened, merged = open_adapter(model, folder), open_model(folder, torch.float32)
    assert (logits(opened) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(opened), logits(merged))
    assert torch.equal(logits(model), before)


def test_an_adapter_in_a_bucket_opens_beside_its_base(base: Path, tmp_path: Path, bucket: str) -> None:
    folder = saved(RandomAdapter(), base, tmp_path / "adapter")
    upload(folder, location(f"{bucket}/adapter"))
    model = open_model(base, torch.float32)
    there = open_adapters(model, {"pets": f"{bucket}/adapter"})["pets"]
    torch.testing.assert_close(logits(there), logits(open_adapter(model, folder)))


def test_an_open_adapter_shares_the_weights_of_the_model(base: Path, tmp_path: Path) -> None:
    model = open_model(base, torch.bfloat16)
    opened = open_adapter(model, saved(ADAPTERS[2], base, tmp_path / "adapter"))
    own = {name: p for name, p in opened.named_parameters() if p not in {*model.parameters()}}
    assert all("lora_" in name or name.startswith("projector.") for name in own)
    assert {p.dtype for p in own.values()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in opened.parameters())


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / ADAPTER_CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def images(folder: Path) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["lladav"]["images"]["grid"] = 2
    file.write_text(json.dumps(content))


def tensor(name: str, *shape: int) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        save_file({**tensors, PREFIX + name: torch.zeros(shape)}, folder / ADAPTER_WEIGHTS)

    return change


def trained_elsewhere(folder: Path) -> None:
    save_file(load_file(folder / ADAPTER_WEIGHTS), folder / ADAPTER_WEIGHTS, {"base_digest": "0123"})


MERGE = "merge the adapter with train/export.py, and open the result as a model"
REFUSED: list[tuple[Change, str]] = [
    (lambda folder: (folder / ADAPTER_CONFIG).unlink(), f"holds no {ADAPTER_CONFIG}; name the folder of an"),
    (lambda folder: (folder / ADAPTER_WEIGHTS).unlink(), "cannot be read (No such file or directory)"),
    (trained_elsewhere, "base has other weights; open it with its own base"),
    (config(r=5), "self_attn.q_proj.lora_A.weight has shape [4, 32]; expected [5, 32]"),
    (config(use_dora=True), "use_dora is True; only adapters with False can be used"),
    (images, f"images.grid is 2, and 3 in the base; {MERGE}"),
    (
        tensor("lm_head.lora_A.weight", 4, 32),
        f"lm_head.lora_A.weight is for no linear layer of a tower or the projector; {MERGE}",
    ),
    (
        tensor("model.embed_tokens.weight", 70, 32),
        "model.embed_tokens.weight is for no linear layer of a tower",
    ),
    (
        tensor("model.layers.9.mlp.up_proj.lora_A.weight", 4, 32),
        "layers.9.mlp.up_proj.lora_A.weight is for no linear",
    ),
]


@pytest.mark.parametrize(("change", "line"), REFUSED)
def test_what_cannot_be_opened_is_refused_before_anything_is_read(
    base: Path, tmp_path: Path, change: Change, line: str
) -> None:
    folder = saved(RandomAdapter(), base, tmp_path / "adapter")
    open_adapter(check_model(base), folder)
    change(folder)
    with pytest.raises(UserError) as refused:
        open_adapters(check_model(base), {"pets": str(folder)})
    message = str(refused.value)
    assert message.startswith(f"adapters.pets: {folder}")
    assert line in message
    assert "\n" not in message


def test_values_that_are_not_finite_are_refused(base: Path, tmp_path: Path) -> None:
    folder = saved(RandomAdapter(), base, tmp_path / "adapter")
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    tensors[next(iter(tensors))][0, 0] = torch.nan
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    with pytest.raises(UserError, match="has values that are not finite"):
        open_adapter(open_model(base, torch.float32), folder)
