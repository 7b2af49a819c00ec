"""The two-layer MLP from the vision tower's width to the language tower's."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """(..., vision width) to (..., width): linear, GELU, linear, numbered as released."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))
