"""The two-layer MLP from the vision tower's width to the language tower's."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Sequential):
    """Linear, GELU, Linear; its layers are numbered 0 and 2 as in the released checkpoint."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, input: Tensor) -> Tensor:
        """(..., vision width) to (..., width)."""
        return super().forward(input)
