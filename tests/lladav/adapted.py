"""Models with random adapters for tests, and the same models with the adapters merged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lladav.checkpoint import AdapterBase, export_adapter, open_model
from lladav.config.choices import LORA_TARGETS
from lladav.config.schema import LoraConfig, LoraTarget, ModelPart
from lladav.model.copies import copy_with
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import LoraLinear

LANGUAGE = (ModelPart.language,)


@dataclass(frozen=True)
class RandomAdapter:
    """What a random adapter is made of."""

    rank: int = 4
    alpha: int = 8
    towers: Sequence[ModelPart] = LANGUAGE
    targets: Sequence[LoraTarget] = tuple(LoraTarget)
    projector: bool = False
    """Whether it has a projector of its own."""
    seed: int = 0
    std: float = 0.2


def adapted(model: LLaDAV, adapter: RandomAdapter) -> LLaDAV:
    """A copy of a model with the adapter; it shares the weights of the model."""
    generator = torch.Generator().manual_seed(adapter.seed)

    def replacement(name: str, layer: nn.Module) -> nn.Module | None:
        if name == "projector" and adapter.projector:
            own = copy.deepcopy(layer)
            _randomize(own, adapter.std, generator)
            return own
        if not isinstance(layer, nn.Linear) or not _is_target(name, adapter):
            return None
        lora = LoraLinear(layer, adapter.rank, adapter.alpha)
        for matrix in (lora.lora_A, lora.lora_B):
            _randomize(matrix, adapter.std, generator)
        return lora

    return copy_with(model, replacement)


def _is_target(layer: str, adapter: RandomAdapter) -> bool:
    tower, _, _ = layer.partition(".")
    targets = LORA_TARGETS[ModelPart(tower)] if tower in adapter.towers else []
    return layer.rpartition(".")[2] in {*targets} & {*adapter.targets}


def _randomize(layer: nn.Module, std: float, generator: torch.Generator) -> None:
    for parameter in layer.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def merged(model: LLaDAV) -> LLaDAV:
    """A plain model with the weights that the adapters of a model give."""

    def replacement(_: str, layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, LoraLinear):
            return None
        plain = nn.Linear(*layer.weight.shape[::-1], bias=layer.bias is not None, dtype=layer.weight.dtype)
        plain.weight.data = (
            layer.weight.data + layer.scaling * layer.lora_B.weight.data @ layer.lora_A.weight.data
        )
        if layer.bias is not None:
            plain.bias.data = layer.bias.data
        return plain

    return copy_with(model, replacement)


def saved(adapter: RandomAdapter, base: Path, folder: Path, tokenizer: Path | None = None) -> Path:
    """Write the adapter of a model in a folder, as training does; returns its folder."""
    model = open_model(base, torch.float32)
    shared = {*model.parameters()}
    own = {name: p for name, p in adapted(model, adapter).named_parameters() if p not in shared}
    lora = LoraConfig(rank=adapter.rank, alpha=adapter.alpha)
    export_adapter(own, model.config, lora, AdapterBase.of(str(base)), folder, tokenizer=tokenizer)
    return folder
