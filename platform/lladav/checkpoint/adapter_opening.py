"""Opening adapters without merging them: models that share the weights of their base.

Everything is checked against the headers of the files first. With a base on the meta device
(``check_model``), nothing else happens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from lladav.checkpoint.adapters import PREFIX, Adapter, adapter_in
from lladav.checkpoint.config_fields import CONFIG
from lladav.checkpoint.config_reading import model_config_of
from lladav.checkpoint.digest import weights_digest
from lladav.checkpoint.index import ADAPTER_CONFIG
from lladav.checkpoint.key_mapping import layout_for
from lladav.checkpoint.loading import load_adapter
from lladav.config.introspection import flatten
from lladav.config.schema import ModelConfig
from lladav.errors import UserError
from lladav.model.copies import copy_with
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import DOWN, UP, LoraLinear
from lladav.storage import exists
from lladav.storage.local_cache import local_model

SHARED_SETTINGS = (
    *("attention", "prediction", "tokens.", "images.grid", "images.shrink_above_views", "images.pixels"),
    *("images.frame_side", "images.newline_per_frame_row"),
)
"""Beginnings of the settings that decide what a model computes from an image and a text."""
MERGE = "merge the adapter with train/export.py, and open the result as a model"


def open_adapters(model: LLaDAV, folders: Mapping[str, str]) -> dict[str, LLaDAV]:
    """The model with each adapter, by name; raises ``UserError`` that begins with the name."""
    opened: dict[str, LLaDAV] = {}
    for name, folder in folders.items():
        try:
            opened[name] = open_adapter(model, folder)
        except UserError as error:
            raise UserError(f"adapters.{name}: {error}") from None
    return opened


def open_adapter(model: LLaDAV, folder: str | Path) -> LLaDAV:
    """A copy of an open model with the adapter in a folder, at a URI or of a hub id.

    The copy shares all weights of the model. Only the adapter, and a projector that was trained in full, are
    read. Raises ``UserError`` if the files are missing or damaged, belong to another model, or adapt layers
    that need merging.
    """
    folder = local_model(folder)
    adapter = adapter_in(folder)
    if adapter is None:
        raise UserError(f"{folder}: holds no {ADAPTER_CONFIG}; name the folder of an adapter")
    _check_base(adapter, model)
    if exists(folder / CONFIG):
        _check_config(folder, model.config)
    adapted = _adapted(model, adapter)
    load_adapter(adapted, adapter, reads=not model.newline.is_meta)
    return adapted.eval().requires_grad_(False)


def _check_base(adapter: Adapter, model: LLaDAV) -> None:
    """Raise ``UserError`` if the adapter was trained with other weights than those of the model."""
    weights, digest = model.config.weights.llada_v, adapter.base.digest
    if weights and digest and weights_digest(weights) != digest:
        raise UserError(
            f"{adapter.file}: belongs to {adapter.base.path}, and {weights} has other weights; "
            "open it with its own base"
        )


def _check_config(folder: Path, base: ModelConfig) -> None:
    """Raise ``UserError`` if the adapter was trained with other settings of the model, such as its images."""
    own, expected = _shared_settings(model_config_of(folder)), _shared_settings(base)
    for key, value in own.items():
        if value != expected[key]:
            raise UserError(f"{folder / CONFIG}: {key} is {value}, and {expected[key]} in the base; {MERGE}")


def _shared_settings(config: ModelConfig) -> dict[str, Any]:
    return {key: value for key, value in flatten(asdict(config)).items() if key.startswith(SHARED_SETTINGS)}


def _adapted(model: LLaDAV, adapter: Adapter) -> LLaDAV:
    """A copy of the model with the layers of the adapter, whose values are not set."""
    places = dict(_places(model))
    for name, tensor in adapter.tensors.items():
        if name not in places:
            raise UserError(
                f"{tensor.file}: {PREFIX}{name} is for no linear layer of a tower or the projector; {MERGE}"
            )
    layers = {places[name] for name in adapter.tensors}

    def replacement(name: str, layer: nn.Module) -> nn.Module | None:
        if name not in layers:
            return None
        if isinstance(layer, nn.Linear):
            return LoraLinear(layer, adapter.rank, adapter.alpha)
        return copy.deepcopy(layer).requires_grad_(True)

    return copy_with(model, replacement)


def _places(model: LLaDAV) -> Iterator[tuple[str | None, str]]:
    """Released names of all tensors that an adapter may have, each with the layer that it is for."""
    layout = layout_for(model.config)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            yield from ((layout.released(name + end), name) for end in (DOWN, UP))
    for name, _ in model.projector.named_parameters():
        yield layout.released(f"projector.{name}"), "projector"
