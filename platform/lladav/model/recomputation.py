"""Activation checkpointing: a layer's activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """The output of a layer. With ``recompute``, a backward pass keeps only its inputs."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
