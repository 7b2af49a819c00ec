"""Weights prepacked for oneDNN, and the LM head in vocabulary chunks.

On a CPU, oneDNN packs a large float32 weight once and then multiplies a few rows by it up to several times as
fast as by a plain weight. Packed weights are copies: later changes of the original weights do not reach them.
On other devices, and for models above a limit, weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lladav.model.copies import copy_with
from lladav.model.language import LanguageTower

Projection = Callable[[Tensor], Tensor]
"""Multiplies rows (M, W) by a weight."""
PREPACK_LIMIT = 2**31
"""Bytes of the largest language tower whose weights are packed: packing needs a copy of them."""
MIN_PREPACKED_BYTES = 2**20
"""Smaller weights stay plain: the call of the packed product costs more than it saves."""
CHUNK = 8192
"""Ids of a vocabulary chunk on a CPU; the logits of a chunk stay in the cache of the processor."""
CUDA_CHUNK = 32768
"""Ids of a vocabulary chunk on a GPU, where each chunk costs kernel launches."""


def fastest_dtype(device: str, capabilities: Mapping[str, Any] | None = None) -> str:
    """The fastest weight dtype on a device: bfloat16 if its processor has matrix products in bfloat16.

    ``capabilities`` are CPU features as in ``torch.cpu.get_capabilities``, by default those of this machine.
    """
    features = torch.cpu.get_capabilities() if capabilities is None else capabilities
    has_bfloat16 = device != "cpu" or features.get("amx_bf16") or features.get("avx512_bf16")
    return "bfloat16" if has_bfloat16 else "float32"


class PrepackedLinear(nn.Module):
    """A linear layer without bias on a packed copy of its weight."""

    def __init__(self, weight_VW: Tensor) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_VW.detach().contiguous(), None)

    def forward(self, rows_MW: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows_MW, self._packed, None, "none", [], "")


class DecodingWeights:
    """A language tower for inference, and its LM head in vocabulary chunks."""

    def __init__(self, tower: LanguageTower, prepack_limit: int = PREPACK_LIMIT) -> None:
        head_VW = tower.lm_head.weight.detach()
        fits = sum(weight.nbytes for weight in tower.parameters()) <= prepack_limit
        self.tower = copy_with(tower, _prepacked) if fits else tower
        self.head = head_chunks(head_VW, prepacked=fits and _is_worth_packing(head_VW))


def head_chunks(weight_VW: Tensor, prepacked: bool, chunk: int | None = None) -> list[Projection]:
    """The LM head as one projection for each ``chunk`` ids of the vocabulary."""
    weights = weight_VW.split(chunk or (CUDA_CHUNK if weight_VW.is_cuda else CHUNK))
    return [PrepackedLinear(each) if prepacked else partial(linear, weight=each) for each in weights]


def _is_worth_packing(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.nbytes >= MIN_PREPACKED_BYTES
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _prepacked(name: str, layer: nn.Module) -> PrepackedLinear | None:  # noqa: ARG001 - a ``Replacement``
    """A large linear layer, packed."""
    if isinstance(layer, nn.Linear) and _is_worth_packing(layer.weight):
        return PrepackedLinear(layer.weight)
    return None
