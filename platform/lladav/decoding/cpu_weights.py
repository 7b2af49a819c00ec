"""Weights as the processor multiplies by them fastest.

On a CPU, oneDNN packs a large float32 weight once and then multiplies few rows by it up to several times as
fast as by a plain one. Packed weights are copies: later changes of the originals do not reach them.
Elsewhere, and for models above a budget, weights stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lladav.model.language import LanguageTower

M = TypeVar("M", bound=nn.Module)
Product = Callable[[Tensor], Tensor]
"""Rows (M, W) times a weight."""
PACKED_BYTES = 2**31
"""Of a language tower whose weights are packed, at most."""
WORTH_PACKING = 2**20
"""Bytes of a weight from which on packing wins more than its call costs."""
CHUNK = 8192
"""Ids of a piece of the vocabulary on a CPU; the logits of a step's rows for it stay in the cache."""
CUDA_CHUNK = 32768
"""On a GPU, where each piece costs launches."""


def best_dtype(device: str, capabilities: Mapping[str, Any] | None = None) -> str:
    """The fastest type of weights on a device: bfloat16 where its processor multiplies by it.

    ``capabilities`` are those of the processor, by default this machine's.
    """
    known = torch.cpu.get_capabilities() if capabilities is None else capabilities
    half = device != "cpu" or known.get("amx_bf16") or known.get("avx512_bf16")
    return "bfloat16" if half else "float32"


class PackedLinear(nn.Module):
    """A linear layer without a bias on a packed copy of its weight."""

    def __init__(self, weight_VW: Tensor) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_VW.detach().contiguous(), None)

    def forward(self, rows_MW: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows_MW, self._packed, None, "none", [], "")


class DecodingWeights:
    """A language tower, and its head in pieces along the vocabulary, for forwards alone."""

    def __init__(self, tower: LanguageTower, packed_bytes: int = PACKED_BYTES) -> None:
        head_VW = tower.lm_head.weight.detach()
        fits = sum(weight.nbytes for weight in tower.parameters()) <= packed_bytes
        self.tower = _with_packed_linears(tower) if fits else tower
        self.head = head_pieces(head_VW, packed=fits and _worth_packing(head_VW))


def head_pieces(weight_VW: Tensor, packed: bool, chunk: int | None = None) -> list[Product]:
    """The projection to the vocabulary, ``chunk`` ids at a time."""
    rows = weight_VW.split(chunk or (CUDA_CHUNK if weight_VW.is_cuda else CHUNK))
    return [PackedLinear(each) if packed else partial(linear, weight=each) for each in rows]


def _worth_packing(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.nbytes >= WORTH_PACKING
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _with_packed_linears(module: M) -> M:
    """The module with its large linear layers packed; all other weights are shared with it."""
    twin = copy.copy(module)
    twin._modules = {
        name: PackedLinear(child.weight)
        if isinstance(child, nn.Linear) and _worth_packing(child.weight)
        else child and _with_packed_linears(child)
        for name, child in module._modules.items()
    }
    return twin
