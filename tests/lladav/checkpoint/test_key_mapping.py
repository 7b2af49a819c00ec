"""Every released name maps to a parameter, and every parameter to a released name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lladav.checkpoint import LAYOUTS, model_config_of
from lladav.checkpoint.index import stored_tensors
from lladav.checkpoint.key_mapping import detect
from lladav.checkpoint.loading import unused_layers
from lladav.config.loader import load
from lladav.config.schema import ModelConfig, VisionConfig
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV


def meta_model(config: ModelConfig) -> LLaDAV:
    with torch.device("meta"):
        return LLaDAV(config)


def released_names(model: LLaDAV, layout: str) -> list[str]:
    names = [LAYOUTS[layout].released(name) for name, _ in model.named_parameters()]
    return [name for name in names if name]


@pytest.fixture(scope="module")
def full_size() -> LLaDAV:
    return meta_model(load(["model=llada_v_8b"]).model)


def test_the_names_of_the_real_8b_checkpoint_are_those_of_our_language_tower(
    golden: Any, tmp_path: Path
) -> None:
    for index in (golden.folder / "released").glob("*.index.json"):
        shutil.copy(str(index).replace(".index.json", ".config.json"), tmp_path / "config.json")
        model, released = meta_model(model_config_of(tmp_path)), json.loads(index.read_text())
        names = list(released["weight_map"])
        assert sorted(released_names(model, detect(names, "index").name)) == sorted(names)
        values = sum(parameter.numel() for parameter in model.language.parameters())
        assert 2 * values == released["metadata"]["total_size"]


@pytest.mark.parametrize(
    ("folder", "layout"), [("checkpoint", "llada_v"), ("llada_text_checkpoint", "llada")]
)
def test_golden_checkpoints_have_exactly_our_names(golden: Any, folder: str, layout: str) -> None:
    names = stored_tensors(golden.folder / folder)
    model = meta_model(model_config_of(golden.folder / folder))
    assert detect(names, folder).name == layout
    assert sorted(released_names(model, layout)) == sorted(names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_detected_and_maps_parameters_to_distinct_names(layout: str, full_size: LLaDAV) -> None:
    names = released_names(full_size, layout)
    assert len(set(names)) == len(names)
    assert detect(names, "here").renames == LAYOUTS[layout].renames


def test_llada_v_contains_every_parameter(full_size: LLaDAV) -> None:
    assert len(released_names(full_size, "llada_v")) == len(list(full_size.parameters()))


def test_published_names_of_language_weights(full_size: LLaDAV) -> None:
    names = released_names(full_size, "llada")
    blocks = {name.split(".", 4)[4] for name in names if ".blocks.31." in name}
    projections = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    assert blocks == {f"{module}.weight" for module in (*projections, "attn_norm", "ff_norm")}
    assert {name for name in names if ".blocks." not in name} == {
        f"model.transformer.{module}.weight" for module in ("wte", "ln_f", "ff_out")
    }


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("text_model.encoder.layers.3.mlp.fc1.weight", True),
        ("logit_scale", True),
        ("vision_model.head.probe", True),
        ("vision_model.embeddings.position_ids", True),
        ("vision_model.encoder.layers.26.mlp.fc1.weight", True),
        ("vision_model.encoder.layers.25.mlp.fc1.weight", False),
        ("vision_model.encoder.layers.27.mlp.fc1.weight", False),
        ("vision_model.post_layernorm.weight", False),
    ],
)
def test_only_unused_tensors_of_the_published_tower_are_ignored(name: str, ignored: bool) -> None:
    assert LAYOUTS["siglip2"].ignores(name, unused_layers(VisionConfig())) is ignored


def test_unknown_names_are_refused_with_an_example() -> None:
    with pytest.raises(
        UserError, match=r"^here: in none of the released layouts .*: .*first.* h\.0\.attn$|h\.0"
    ):
        detect(["h.0.attn"], "here")


def test_the_full_size_model_has_the_published_number_of_parameters(full_size: LLaDAV) -> None:
    width, mlp, vocab = 4096, 12288, 126464
    layer = 4 * width**2 + 3 * width * mlp + 2 * width
    language = 2 * vocab * width + 32 * layer + width
    assert language == 8_015_581_184
    patch, positions = 1152 * 3 * 14 * 14 + 1152, 27 * 27 * 1152
    attention, feed_forward = 4 * (1152**2 + 1152), 2 * 1152 * 4304 + 4304 + 1152
    vision = patch + positions + 26 * (attention + feed_forward + 2 * 2 * 1152) + 2 * 1152
    assert vision == 397_747_744
    projector = 1152 * width + width + width**2 + width
    counted = [full_size.language, full_size.vision, full_size.projector]
    assert [sum(p.numel() for p in part.parameters()) for part in counted] == [language, vision, projector]
    assert full_size.newline.shape == (width,)
