"""Copies of modules that share their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
Replacement = Callable[[str, nn.Module], nn.Module | None]
"""Returns the layer that takes the place of a layer with this name; None to keep it."""


def copy_with(module: M, replacement: Replacement, prefix: str = "") -> M:
    """A copy of a module in which some layers are replaced; it shares all other weights.

    ``replacement`` gets the names of the layers below the module, with ``prefix`` in front.
    """
    twin = copy.copy(module)  # shallow: a new module around the same parameters
    twin._modules = {
        name: child and _kept(prefix + name, child, replacement) for name, child in module._modules.items()
    }
    return twin


def _kept(name: str, layer: nn.Module, replacement: Replacement) -> nn.Module:
    """The replacement of a layer, or a copy of it with layers below replaced."""
    return replacement(name, layer) or copy_with(layer, replacement, f"{name}.")
