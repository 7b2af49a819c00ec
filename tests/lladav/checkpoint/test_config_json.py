"""Reading and writing ``config.json`` of every released layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lladav.checkpoint import LAYOUTS, model_config_of
from lladav.checkpoint.config_writing import config_json
from lladav.config.loader import load
from lladav.config.schema import (
    Attention,
    LanguageConfig,
    ModelConfig,
    Pixels,
    Prediction,
    TokenIds,
    VisionConfig,
)
from lladav.errors import UserError
from tests.lladav.build import golden_config, tiny_config


def written(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def as_written(folder: Path, config: ModelConfig, layout: str, **changes: Any) -> ModelConfig:
    return model_config_of(written(folder, {**config_json(config, layout, torch.float32), **changes}))


def test_the_golden_config_is_read_like_the_released_code(golden: Any) -> None:
    config = model_config_of(golden.folder / "checkpoint")
    expected = golden_config(golden.folder, golden.special_ids)
    assert config.language == expected.language
    assert config.vision == expected.vision
    assert config.images == replace(
        expected.images, newline_per_frame_row=config.images.newline_per_frame_row
    )
    raw = json.loads((golden.folder / "checkpoint" / "config.json").read_text())
    assert config.images.newline_per_frame_row is (raw["mm_newline_position"] == "grid")


def test_the_mask_id_of_the_published_text_config_is_read(golden: Any) -> None:
    config = model_config_of(golden.folder / "llada_text_checkpoint")
    assert config.tokens.mask == golden.special_ids["mask"]
    assert config.weights.language == str(golden.folder / "llada_text_checkpoint")


def test_the_real_8b_config_is_the_default_language_tower(golden: Any, tmp_path: Path) -> None:
    for file in (golden.folder / "released").glob("*.config.json"):
        config = model_config_of(written(tmp_path, json.loads(file.read_text())))
        assert config.language == LanguageConfig()
        assert config.tokens == TokenIds(), "an id outside the vocabulary belongs to another tokenizer"


@pytest.mark.parametrize("layout", ["llada_v", "llada", "llada_hf"])
def test_language_images_tokens_and_attention_round_trip(tmp_path: Path, layout: str) -> None:
    config = replace(tiny_config(kv_heads=2), attention=Attention.dialogue_causal, allow_eos=True)
    config.images.pixels, config.images.inference_frames = Pixels.released, 16
    again = as_written(tmp_path, config, layout)
    kept = ["name", "language", "tokens", "images", "attention", "allow_eos"]
    kept += ["vision"] if layout == "llada_v" else []
    assert {name: getattr(again, name) for name in kept} == {name: getattr(config, name) for name in kept}


def test_a_config_of_an_earlier_version_is_of_a_masked_model_that_writes_no_eos(tmp_path: Path) -> None:
    content = config_json(tiny_config(), "llada_v", torch.float32)
    del content["lladav"]["prediction"], content["lladav"]["allow_eos"]
    config = model_config_of(written(tmp_path, content))
    assert (config.prediction, config.allow_eos) == (Prediction.masked, False)


def test_an_exported_tower_has_only_the_built_layers(tmp_path: Path) -> None:
    vision = as_written(tmp_path, tiny_config(), "siglip2").vision
    assert vision == replace(tiny_config().vision, layers=2, feature_layer=-1)


def test_released_keys_are_used_without_our_section(tmp_path: Path) -> None:
    content = config_json(load(["model=llada_v_8b"]).model, "llada_v", torch.bfloat16)
    del content["lladav"], content["vision_config"]
    content |= {"image_grid_pinpoints": "(1x1),...,(4x4)", "image_aspect_ratio": "anyres_max_9"}
    config = model_config_of(written(tmp_path, content))
    assert config.vision == VisionConfig()
    assert (config.images.grid, config.images.shrink_above_views) == (4, 9)
    assert (config.images.frame_side, config.images.newline_per_frame_row) == (14, True)


def test_missing_vision_keys_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    vision = {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_hidden_layers": 27}
    content = {
        "model_type": "siglip",
        "text_config": {},
        "vision_config": {**vision, "num_attention_heads": 16},
    }
    config = model_config_of(written(tmp_path, content))
    assert config.vision == replace(VisionConfig(), patch_size=16)
    assert config.weights.vision == str(tmp_path)


def test_special_ids_come_from_the_tokenizer_in_the_folder(golden: Any, tmp_path: Path) -> None:
    content = config_json(tiny_config(), "llada_hf", torch.float32)
    del content["lladav"]
    written(tmp_path, content)
    tokenizer = golden.folder / "tokenizer" / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    ids = {token["content"]: token["id"] for token in json.loads(tokenizer.read_text())["added_tokens"]}
    assert model_config_of(tmp_path).tokens.mask == ids["<|mdm_mask|>"]


def test_special_ids_that_differ_from_the_tokenizer_are_refused(golden: Any, tmp_path: Path) -> None:
    written(tmp_path, config_json(tiny_config(), "llada_hf", torch.float32))
    shutil.copy(golden.folder / "tokenizer" / "tokenizer.json", tmp_path)
    with pytest.raises(
        UserError, match=r"config\.json: lladav\.tokens\.mask=60: \S+ gives <\|mdm_mask\|> the id 2"
    ):
        model_config_of(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_its_dtype_in_the_config(layout: str) -> None:
    assert config_json(tiny_config(), layout, torch.bfloat16)["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden_size": None}, r"config\.json: lacks hidden_size; expected a number such as 4096$"),
        (
            {"num_hidden_layers": "3"},
            r"config\.json: num_hidden_layers is '3'; expected a number such as 32$",
        ),
        ({"num_attention_heads": 0}, r"config\.json: num_attention_heads is 0; expected a number"),
        (
            {"mm_hidden_size": 77},
            r"config\.json: mm_hidden_size is 77; expected the vision tower's width 16$",
        ),
        (
            {"image_grid_pinpoints": [[28, 28], [56, 28]]},
            r"config\.json: image_grid_pinpoints is not every grid",
        ),
        ({"lladav": {"tokns": {}}}, r"config\.json: lladav: .*tokns"),
    ],
)
def test_invalid_keys_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        as_written(tmp_path, tiny_config(), "llada_v", **changes)
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: cannot be read \(No such file or directory\)$"):
        model_config_of(tmp_path)
