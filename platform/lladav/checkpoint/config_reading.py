"""From the ``config.json`` of any released layout to our ``ModelConfig``.

The ids of special tokens come from our section, else from the tokenizer in the folder, else from released
keys if the ids fit the vocabulary: one released config contains ids of another tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lladav.checkpoint.config_fields import (
    CONFIG,
    FEATURE_LAYER,
    LLADA,
    LLAMA_CONSTANTS,
    OURS,
    PUBLISHED_LANGUAGE,
    RENAMED_CONSTANTS,
    RENAMED_LANGUAGE,
    ROPE_TYPES,
    SIGLIP_DEFAULTS,
    STRIDE,
    TOKENS,
    TRAITS,
    VISION,
    Keys,
)
from lladav.checkpoint.index import read_json
from lladav.config.schema import (
    ImagesConfig,
    LanguageConfig,
    ModelConfig,
    TokenIds,
    VisionConfig,
    WeightsConfig,
)
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer, check_special_tokens
from lladav.storage import AnyPath, exists, model_location
from lladav.storage.local_cache import local_model

Json = dict[str, Any]
Section = TypeVar("Section", LanguageConfig, VisionConfig)


def model_config_of(path: str | Path) -> ModelConfig:
    """Return the config of the model in a folder (or in a file in it), with its weights and tokenizer set to
    that path.

    A tower that the layout lacks has the default config. Raises ``UserError`` with the file, the key and what
    was expected, also if the special tokens of ``config.json`` differ from those of the tokenizer beside it.
    """
    path = local_model(path)
    folder = path.parent if path.is_file() else path
    raw = read_json(folder / CONFIG)
    config = _reader(raw)(raw, folder / CONFIG, str(path))
    config.name, config.tokenizer = folder.resolve().name, str(folder)
    tokenizer = ChatTokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None
    traits = TRAITS.get(str(raw.get("model_type")), LLADA)
    config.attention, config.prediction = traits.attention, traits.prediction
    vocab_size = config.language.vocab_size
    config.tokens = tokenizer.ids if tokenizer else _released_ids(raw, traits.tokens, vocab_size)
    config = _with_our_section(config, raw, folder / CONFIG)
    if tokenizer:
        check_special_tokens(config, tokenizer, f"{folder / CONFIG}: {OURS}.")
    return config


def check_architecture(folder: str | Path) -> None:
    """Raise ``UserError`` if the weights in a folder or URI are of a language tower that ours cannot be.

    Reads only ``config.json``, and nothing if there is none.
    """
    file = model_location(folder) / CONFIG
    if exists(file):
        raw = read_json(file)
        if _reader(raw) in (_renamed, _llada_v):
            _check_language(raw, file)


def _reader(raw: Json) -> Callable[[Json, Path, str], ModelConfig]:
    if "d_model" in raw:
        return _published
    if "mm_hidden_size" in raw:
        return _llada_v
    is_tower = "vision_config" in raw or str(raw.get("model_type")).startswith("siglip")
    return _tower if is_tower else _renamed


def _published(raw: Json, file: Path, path: str) -> ModelConfig:
    language = _section(LanguageConfig(), raw, PUBLISHED_LANGUAGE, file)
    return ModelConfig(language=language, weights=WeightsConfig(language=path))


def _renamed(raw: Json, file: Path, path: str) -> ModelConfig:
    _check_language(raw, file)
    nested = {"rope_theta": raw.get("rope_theta") or _rope(raw).get("rope_theta")}
    language = _section(LanguageConfig(), {**raw, **nested}, RENAMED_LANGUAGE, file)
    return ModelConfig(language=language, weights=WeightsConfig(language=path))


def _check_language(raw: Json, file: AnyPath) -> None:
    """Raise ``UserError`` if a renamed ``config.json`` describes a language tower that ours cannot be."""
    for key, value in {**RENAMED_CONSTANTS, **LLAMA_CONSTANTS}.items():
        if key not in ("architectures", "model_type") and raw.get(key, value) not in (value, None):
            raise UserError(f"{file}: {key} is {raw[key]!r}; only towers with {value!r} can be used")
    rope_type = next((kind for key in ROPE_TYPES if (kind := _rope(raw).get(key))), "default")
    if rope_type != "default":
        raise UserError(
            f"{file}: rope_type is {rope_type!r}; only towers without a scaled rotary embedding can be used"
        )
    width, heads, own = (raw.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if own and width and heads and own * heads != width:
        raise UserError(f"{file}: head_dim is {own}; expected hidden_size / num_attention_heads")


def _rope(raw: Json) -> Json:
    """The settings of the rotary embedding in recent versions of ``transformers``."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _tower(raw: Json, file: Path, path: str) -> ModelConfig:
    published = {**SIGLIP_DEFAULTS, **raw.get("vision_config", raw)}
    vision = _section(VisionConfig(), published, VISION, file)
    vision.feature_layer = raw.get(FEATURE_LAYER, vision.feature_layer)
    return ModelConfig(vision=vision, weights=WeightsConfig(vision=path))


def _llada_v(raw: Json, file: Path, path: str) -> ModelConfig:
    config = replace(_renamed(raw, file, path), weights=WeightsConfig(llada_v=path))
    if "vision_config" in raw:
        config.vision = _tower(raw, file, path).vision
    if raw["mm_hidden_size"] != config.vision.width:
        raise UserError(
            f"{file}: mm_hidden_size is {raw['mm_hidden_size']}; "
            f"expected the vision tower's width {config.vision.width}"
        )
    config.images = _images(raw, config.vision, file)
    return config


def _images(raw: Json, vision: VisionConfig, file: Path) -> ImagesConfig:
    """Tiling and pooling; a missing key leaves the default."""
    images = ImagesConfig()
    if "image_grid_pinpoints" in raw:
        images.grid = _grid(raw["image_grid_pinpoints"], vision.image_size, file)
    if views := re.fullmatch(r"anyres_max_(\d+)", str(raw.get("image_aspect_ratio"))):
        images.shrink_above_views = int(views[1])
    images.newline_per_frame_row = raw.get("mm_newline_position", "grid") == "grid"
    side = vision.image_size // vision.patch_size
    images.frame_side = math.ceil(side / _number({STRIDE: 2, **raw}, (STRIDE,), 2, file))
    return images


def _grid(pinpoints: Any, tile: int, file: Path) -> int:
    """Tiles along a side, from a list of sizes in pixels or from text such as ``(1x1),...,(6x6)``."""
    if isinstance(pinpoints, str):
        return max(map(int, re.findall(r"\d+", pinpoints)), default=1)
    cells = sorted((width // tile, height // tile) for width, height in pinpoints)
    largest = max(cells)[0]
    if cells != [(column, row) for column in range(1, largest + 1) for row in range(1, largest + 1)]:
        raise UserError(
            f"{file}: image_grid_pinpoints is not every grid up to a square one; only those can be used"
        )
    return largest


def _section(defaults: Section, raw: Mapping[str, Any], keys: Keys, file: Path) -> Section:
    values = {ours: _number(raw, released, getattr(defaults, ours), file) for ours, released in keys.items()}
    return replace(defaults, **values)


def _number(raw: Mapping[str, Any], keys: tuple[str, ...], like: float, file: Path) -> float:
    found = next(((key, raw[key]) for key in keys if raw.get(key) is not None), None)
    if found is None:
        raise UserError(f"{file}: lacks {keys[0]}; expected a number such as {like}")
    key, value = found
    kinds = (int,) if isinstance(like, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value <= 0:
        raise UserError(f"{file}: {key} is {value!r}; expected a number such as {like}")
    return type(like)(value)


def _released_ids(raw: Json, defaults: TokenIds, vocab_size: int) -> TokenIds:
    """Ids from released keys, which may also have a list of stop ids, or as EOS the id of eot."""
    ids = {ours: raw.get(key) for ours, (key,) in TOKENS.items()}
    fitting = {k: v for k, v in ids.items() if isinstance(v, int) and 0 <= v < vocab_size}
    return replace(defaults, **{k: v for k, v in fitting.items() if v != defaults.eot})


def _with_our_section(config: ModelConfig, raw: Json, file: Path) -> ModelConfig:
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), raw.get(OURS, {})))
    except OmegaConfBaseException as error:
        raise UserError(f"{file}: {OURS}: {str(error).splitlines()[0]}") from None
    assert isinstance(merged, ModelConfig)
    return merged
