"""Small models and samples for tests, and the golden checkpoint as a model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lladav.checkpoint import LAYOUTS, open_model
from lladav.config.schema import (
    Attention,
    ImagesConfig,
    LanguageConfig,
    ModelConfig,
    Prediction,
    TokenIds,
    VisionConfig,
)
from lladav.inputs.images import ViewGeometry, prepare_image
from lladav.inputs.packing import PackedBatch
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, Visual, VisualKind
from lladav.model.llada_v import LLaDAV

TOKENS = TokenIds(mask=60, bos=61, eos=62, start_header=63, end_header=64, eot=65)
ORDINARY = 60
"""Ids below this are not special tokens."""


def tiny_config(**language: Any) -> ModelConfig:
    """Three layers over views of 4x4 patches."""
    shape = {"vocab_size": 70, "width": 32, "mlp_width": 48, "layers": 3, "heads": 4, "kv_heads": 4}
    return ModelConfig(
        name="test",
        language=LanguageConfig(**{**shape, "max_positions": 4096, **language}),
        vision=VisionConfig(image_size=28, patch_size=7, width=16, mlp_width=24, layers=3, heads=2),
        tokens=TOKENS,
        images=ImagesConfig(grid=3, frame_side=2),
        tokenizer="none",
    )


def tiny_ar_config(**language: Any) -> ModelConfig:
    """The same model with causal attention and next-token prediction."""
    return replace(tiny_config(**language), attention=Attention.causal, prediction=Prediction.next_token)


def config_for_layout(layout: str) -> ModelConfig:
    """A model that other programs expect in this layout."""
    return tiny_ar_config() if LAYOUTS[layout].prediction is Prediction.next_token else tiny_config()


def tiny_model(config: ModelConfig | None = None, seed: int = 0, std: float = 0.2) -> LLaDAV:
    """A model with weights large enough that every part matters."""
    model = LLaDAV(config or tiny_config())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, std, generator=generator)
    return model


def text_of(ids: list[int], supervised: slice = slice(0), turns: list[int] | None = None) -> Encoded:
    """A sample's text with these ids, some of them supervised."""
    input_ids = np.array(ids, dtype=np.int32)
    labels = np.full_like(input_ids, IGNORED)
    labels[supervised] = input_ids[supervised]
    numbers = np.array(turns or [0] * len(ids), dtype=np.int32)
    return Encoded(input_ids, labels, numbers, labels != IGNORED)


def text_sample(name: str, length: int, seed: int = 0, supervised: int = 0) -> Sample:
    """Random ordinary ids, the last ``supervised`` of them supervised."""
    ids = np.random.default_rng(seed).integers(0, ORDINARY, length).tolist()
    return Sample(name, text_of(ids, slice(length - supervised, length)))


def image_sample(name: str, geometry: ViewGeometry, sizes: list[tuple[int, int]], seed: int = 0) -> Sample:
    """Random tiled images, then a few ids of which the last four are supervised."""
    ids = [*[IMAGE_PLACEHOLDER] * len(sizes), *range(1, 9)]
    visuals = [prepare_image(noise_image(*size, seed), VisualKind.tiled, geometry) for size in sizes]
    return Sample(name, text_of(ids, slice(len(ids) - 4, len(ids))), visuals)


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompt_sample(ids: list[int], visuals: list[Visual] | None = None, name: str = "prompt") -> Sample:
    """A prompt without supervision."""
    return Sample(name, text_of(ids), visuals or [])


def golden_config(folder: Path, special_ids: dict[str, Any]) -> ModelConfig:
    """The configuration of the golden checkpoint."""
    raw = json.loads((folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    vision = raw["vision_config"]
    side = vision["image_size"] // vision["patch_size"]
    grid = max(max(pair) for pair in raw["image_grid_pinpoints"]) // vision["image_size"]
    return ModelConfig(
        name="golden",
        language=LanguageConfig(
            vocab_size=raw["vocab_size"],
            width=raw["hidden_size"],
            mlp_width=raw["intermediate_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            rope_theta=raw["rope_theta"],
            norm_eps=raw["rms_norm_eps"],
            max_positions=raw["max_position_embeddings"],
        ),
        vision=VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["hidden_size"],
            mlp_width=vision["intermediate_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            feature_layer=raw["mm_vision_select_layer"],
            norm_eps=vision["layer_norm_eps"],
        ),
        tokens=TokenIds(**{name: special_ids[name] for name in vars(TokenIds())}),
        images=ImagesConfig(
            grid=grid,
            shrink_above_views=int(raw["image_aspect_ratio"].rsplit("_", 1)[-1]),
            frame_side=-(-side // 2),
        ),
        tokenizer=str(folder / "tokenizer"),
    )


def golden_model(folder: Path, special_ids: dict[str, Any]) -> LLaDAV:
    """The golden checkpoint with the special tokens of the recorded cases."""
    model = open_model(folder / "checkpoint", torch.float32)
    model.config.tokens = TokenIds(**{name: special_ids[name] for name in vars(TokenIds())})
    return model


def variant(model: LLaDAV, **changes: Any) -> LLaDAV:
    """A new model with the same weights and other settings."""
    changed = LLaDAV(replace(model.config, **changes))
    changed.load_state_dict(model.state_dict())
    return changed


def packed_logits(model: LLaDAV, packed: PackedBatch) -> Tensor:
    """Logits (T, V) of every position."""
    with torch.no_grad():
        return model.language.lm_head(model.hidden(packed))


def with_repeated_keys_and_values(model: LLaDAV, times: int) -> dict[str, Tensor]:
    """The weights of a model with grouped heads, repeated for a model with one key head per head."""
    weights = model.state_dict()
    for name in [n for n in weights if re.match(r"language\..*\.[kv]_proj", n)]:
        by_head = weights[name].unflatten(0, (model.config.language.kv_heads, -1))
        weights[name] = by_head.repeat_interleave(times, dim=0).flatten(0, 1)
    return weights
