"""Low-rank adapters (LoRA) of linear layers.

An adapted layer keeps its weights and their names, and its adapter has the names of ``peft``:
``lora_A.weight`` and ``lora_B.weight``. ZeRO-3 may shard all of them.

Shapes: R rank.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional

from lladav.config.schema import LoraConfig, ModelPart
from lladav.model.llada_v import LLaDAV

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""Ends of the names of A and B."""


class LoraLinear(nn.Module):
    """A linear layer with an adapter: ``W x + b + alpha / R * B A x``, A (R, inputs) and B (outputs, R)."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Takes over the weights of ``layer``. The values of the adapter are not set."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        like = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
        self.lora_A = nn.Linear(layer.in_features, rank, **like)
        self.lora_B = nn.Linear(rank, layer.out_features, **like)

    def forward(self, inputs: Tensor) -> Tensor:
        update = self.lora_B(self.scaling * self.lora_A(self.dropout(inputs)))
        return functional.linear(inputs, self.weight, self.bias) + update


def add_lora(model: LLaDAV, config: LoraConfig, towers: Iterable[ModelPart]) -> None:
    """Give each target layer of these towers an adapter, whose values the caller sets."""
    for tower in towers:
        for parent in [*model.get_submodule(tower).modules()]:
            for name, layer in [*parent.named_children()]:
                if name in config.targets and isinstance(layer, nn.Linear):
                    setattr(parent, name, LoraLinear(layer, config.rank, config.alpha, config.dropout))


def lora_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all adapters in a module, by name."""
    return {name: p for name, p in module.named_parameters() if name.endswith((DOWN, UP))}
