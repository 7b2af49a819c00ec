"""Rows of different adapters in one forward of the language tower.

A layer holds the matrices of all adapters side by side. One product gives each position the low-rank values
of every adapter, those of other adapters than its own become zero, and a second product gives the update. So
rows need not be sorted, ranks and target layers may differ, and a step runs the same kernels whatever its
rows are, as a CUDA graph requires. The cost grows with the sum of the ranks.

The vision tower and the projector run for one image at a time. So each adapter that changes them has a model
of its own, which shares all other weights with the base.

Shapes: T positions of a step, I inputs and O outputs of a layer, R ranks of all its adapters together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lladav.errors import UserError
from lladav.model.copies import copy_with
from lladav.model.language import LanguageTower
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import LoraLinear

BASE = -1
"""Stands for the base among the numbers of adapters."""


class PositionAdapters:
    """The number of the adapter of each position in the present forward. The adapted layers read it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._by_count: dict[int, Tensor] = {}

    def select(self, numbers: Sequence[int], *counts: Sequence[int]) -> None:
        """Set the adapters of a step: one of ``numbers`` for each span.

        ``counts`` are the positions of each span, and its output positions, which alone the last layer
        computes.
        """
        if set(numbers) <= {BASE}:
            self.set()
        else:
            numbers_S = torch.tensor(numbers, dtype=torch.int32)
            repeated = (numbers_S.repeat_interleave(torch.tensor(each)) for each in counts)
            self.set(*(each.to(self._device) for each in repeated))

    def set(self, *numbers: Tensor) -> None:
        """Set the numbers (int32) of all positions and of output positions; none if all are of the base."""
        # Output positions that are as many as all positions are all positions.
        self._by_count = {len(each): each for each in numbers}

    def of(self, positions: int) -> Tensor | None:
        """The numbers for a layer that computes this many positions; None if all are of the base."""
        return self._by_count[positions] if self._by_count else None


class MultiLoraLinear(nn.Module):
    """A linear layer with several adapters, of which each position gets its own."""

    def __init__(
        self, layer: nn.Module, adapters: Mapping[int, LoraLinear], current: PositionAdapters
    ) -> None:
        """``adapters`` are adapted forms of ``layer``, by the number of the adapter."""
        super().__init__()
        self.layer, self._current = layer, current
        pairs = [(each.lora_A.weight, each.scaling * each.lora_B.weight.T) for each in adapters.values()]
        ranks = torch.tensor([len(down) for down, _ in pairs])
        owner_R = torch.tensor([*adapters], dtype=torch.int32).repeat_interleave(ranks)
        down_RI, up_RO = (torch.cat(each).detach() for each in zip(*pairs, strict=True))
        self.down_RI, self.up_RO = nn.Buffer(down_RI), nn.Buffer(up_RO)
        self.owner_R = nn.Buffer(owner_R.to(down_RI.device))

    def forward(self, inputs_TI: Tensor) -> Tensor:
        outputs_TO, numbers_T = self.layer(inputs_TI), self._current.of(len(inputs_TI))
        if numbers_T is None:
            return outputs_TO
        is_own_TR = numbers_T[:, None] == self.owner_R
        return torch.addmm(outputs_TO, linear(inputs_TI, self.down_RI) * is_own_TR, self.up_RO)


class Adapters:
    """The adapters of an engine, as one language tower for all and a model for the images of each."""

    def __init__(self, model: LLaDAV, adapted: Mapping[str, LLaDAV]) -> None:
        """``adapted`` are copies of the model with an adapter each, by name."""
        self.current = PositionAdapters(model.newline.device)
        self.tower = _with_all(model.language, [each.language for each in adapted.values()], self.current)
        """The language tower with all adapters; the base's if there are none."""
        # With the base's language tower: that of an adapted model would keep its matrices a second time.
        self.visual_models = {
            name: copy_with(each, lambda part, _: model.language if part == "language" else None)
            for name, each in adapted.items()
            if _changes_visual_tokens(each, model)
        }
        """Models that encode the images of the adapters that change visual tokens, by name."""
        self._numbers = {name: number for number, name in enumerate(adapted)}

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def number(self, name: str | None) -> int:
        """The number of an adapter, or ``BASE`` for None. Raises ``UserError`` for an unknown name."""
        if name is None:
            return BASE
        if name not in self._numbers:
            raise UserError(
                f"adapter {name}: not in this engine, which has {', '.join(self._numbers) or 'none'}"
            )
        return self._numbers[name]


def _with_all(
    base: LanguageTower, towers: Sequence[LanguageTower], current: PositionAdapters
) -> LanguageTower:
    def replacement(name: str, layer: nn.Module) -> MultiLoraLinear | None:
        counterparts = [tower.get_submodule(name) for tower in towers]
        adapters = {n: each for n, each in enumerate(counterparts) if isinstance(each, LoraLinear)}
        return MultiLoraLinear(layer, adapters, current) if adapters else None

    return copy_with(base, replacement) if towers else base


def _changes_visual_tokens(adapted: LLaDAV, base: LLaDAV) -> bool:
    """Whether an adapted model has weights of its own in the vision tower or the projector."""
    return not {*adapted.vision.parameters(), *adapted.projector.parameters()} <= {*base.parameters()}
