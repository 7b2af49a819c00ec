"""Which parameters of a model learn. Imports no DeepSpeed, so that estimates need no training engine."""

from __future__ import annotations

from torch import nn

from lladav.config.schema import Config, ModelPart
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import lora_parameters


def trained_parameters(model: LLaDAV, config: Config) -> dict[ModelPart, list[nn.Parameter]]:
    """The parameters that learn, by trained part: of an adapted tower its adapters, else all."""
    return {
        part: [*lora_parameters(model.get_submodule(part)).values()]
        if part in config.adapted
        else model.part(part)
        for part in ModelPart
        if part in config.stage.trained
    }
