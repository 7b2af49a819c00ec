"""From our ``ModelConfig`` to the ``config.json`` of each released layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from lladav.checkpoint.config_fields import (
    FEATURE_LAYER,
    LLADA_V_CONSTANTS,
    LLAMA_CONSTANTS,
    LLAVA_LLAMA_CONSTANTS,
    OUR_FIELDS,
    OURS,
    PUBLISHED_CONSTANTS,
    PUBLISHED_LANGUAGE,
    RENAMED_CONSTANTS,
    RENAMED_LANGUAGE,
    SIGLIP2_CONSTANTS,
    STRIDE,
    TOKENS,
    TOWER_CONSTANTS,
    VISION,
    Keys,
)
from lladav.config.schema import ModelConfig, VisionConfig
from lladav.model.vision import built_layers

Json = dict[str, Any]


def config_json(config: ModelConfig, layout: str, dtype: torch.dtype) -> Json:
    """Return the content of ``config.json`` for weights of ``dtype`` in ``layout``."""
    return {**_WRITERS[layout](config), "torch_dtype": str(dtype).removeprefix("torch.")}


def _published(config: ModelConfig) -> Json:
    vocabulary = {"vocab_size": config.language.vocab_size}
    return {
        **PUBLISHED_CONSTANTS,
        **_keys(config.language, PUBLISHED_LANGUAGE),
        **vocabulary,
        **_text(config),
    }


def _renamed(config: ModelConfig) -> Json:
    return {**RENAMED_CONSTANTS, **_keys(config.language, RENAMED_LANGUAGE), **_text(config)}


def _tower(config: ModelConfig) -> Json:
    """Only the built layers are exported, so the feature layer is the last of them."""
    vision = {**_vision(config.vision), "num_hidden_layers": built_layers(config.vision)}
    return {**SIGLIP2_CONSTANTS, **vision, FEATURE_LAYER: -1}


def _llama(config: ModelConfig) -> Json:
    """Generation by other programs stops at the end of a text and at the end of a turn."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": config.language.rope_theta}}
    stops = {"eos_token_id": [config.tokens.eos, config.tokens.eot]}
    return {**_renamed(config), **LLAMA_CONSTANTS, **rope, **stops}


def _llada_v(config: ModelConfig) -> Json:
    return {**_renamed(config), **LLADA_V_CONSTANTS, **_multimodal(config)}


def _llava_llama(config: ModelConfig) -> Json:
    return {**_llama(config), **LLAVA_LLAMA_CONSTANTS, **_multimodal(config)}


def _multimodal(config: ModelConfig) -> Json:
    return {
        "mm_hidden_size": config.vision.width,
        FEATURE_LAYER: config.vision.feature_layer,
        "vision_config": _vision(config.vision),
        **_images(config),
    }


def _images(config: ModelConfig) -> Json:
    images, tile = config.images, config.vision.image_size
    sizes = [tile * count for count in range(1, images.grid + 1)]
    side = tile // config.vision.patch_size
    return {
        "image_aspect_ratio": f"anyres_max_{images.shrink_above_views}",
        "image_grid_pinpoints": [[width, height] for width in sizes for height in sizes],
        "mm_newline_position": "grid" if images.newline_per_frame_row else "one_token",
        STRIDE: round(side / images.frame_side),
    }


def _vision(vision: VisionConfig) -> Json:
    return {**TOWER_CONSTANTS, **_keys(vision, VISION)}


def _text(config: ModelConfig) -> Json:
    """Ids of special tokens, and our section."""
    whole = asdict(config)
    ours = {name: whole[name] for name in OUR_FIELDS}
    tokens = {key: token for key, token in _keys(config.tokens, TOKENS).items() if token is not None}
    return {**tokens, "pad_token_id": config.tokens.eos, OURS: ours}


def _keys(section: Any, keys: Keys) -> Json:
    return {released[0]: getattr(section, ours) for ours, released in keys.items()}


_WRITERS: dict[str, Callable[[ModelConfig], Json]] = {
    "llada": _published,
    "llada_hf": _renamed,
    "llama_hf": _llama,
    "siglip2": _tower,
    "llada_v": _llada_v,
    "llava_llama": _llava_llama,
}
