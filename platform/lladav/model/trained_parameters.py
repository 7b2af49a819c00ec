"""Which parameters of a model learn. Imports no DeepSpeed, so that estimates need no training engine."""

from __future__ import annotations

from torch import nn

from lladav.config.schema import Config, ModelPart
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import lora_parameters


def trained_parameters(model: LLaDAV, config: Config) -> dict[ModelPart, list[nn.Parameter]]:
    """The parameters that learn, by trained part: of an adapted tower its adapters, else all."""
    return {
        part: _beside_frozen(model, part, config) if part in config.adapted else model.part(part)
        for part in ModelPart
        if part in config.stage.trained
    }


def _beside_frozen(model: LLaDAV, tower: ModelPart, config: Config) -> list[nn.Parameter]:
    """The adapters of a tower, and of the language tower also the vocabulary if it learns."""
    adapters = lora_parameters(model.get_submodule(tower)).values()
    has_vocabulary = tower is ModelPart.language and config.trains_vocabulary
    return [*adapters, *(model.vocabulary() if has_vocabulary else [])]
