"""A sample as the data pipeline or an HTTP request passes it to the model.

Samples are sent between processes, so they hold numpy arrays and no torch tensors. Views stay uint8 until
they are on the model's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cached_property

import numpy as np

IMAGE_PLACEHOLDER = -200
"""One id in ``input_ids`` for each image or video; its visual tokens replace it."""

IGNORED = -100
"""Label of a position that carries no loss."""


class VisualKind(IntEnum):
    """How an image or video is cut into views, and how the features of its views become tokens."""

    square = 0
    """One squashed view, its tokens alone (projector stage)."""
    tiled = 1
    """Base view, then the tiles stitched, unpadded, shrunk, with a newline after each row."""
    padded = 2
    """One view padded to a square and one newline (several images in a sample)."""
    video = 3
    """Frames, each pooled, with a newline after each row."""


@dataclass(frozen=True)
class VisualShape:
    """Everything that determines the number of visual tokens of an image or video (``images.token_count``).

    ``width`` and ``height`` are pixels of the original; ``views`` counts its views.
    """

    kind: VisualKind
    width: int
    height: int
    views: int


@dataclass(frozen=True)
class Visual:
    """One image or video: its shape and the pixels of its views."""

    shape: VisualShape
    views: np.ndarray
    """uint8 (``shape.views``, 3, S, S): the base view and then the tiles row by row, or the frames."""


@dataclass(frozen=True)
class Encoded:
    """The text of a conversation as token ids; each image or video is one ``IMAGE_PLACEHOLDER``.

    All arrays have the same length. ``input_ids``, ``labels`` and ``turns`` are int32; ``turns`` counts
    user-assistant exchanges for dialogue-causal attention. ``answer`` (bool) marks the content of assistant
    turns and their eot; the rest is prompt or template.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    turns: np.ndarray
    answer: np.ndarray

    @cached_property
    def supervised(self) -> np.ndarray:
        """Positions (bool) that carry loss; labels at placeholders are ignored."""
        return (self.labels != IGNORED) & (self.input_ids != IMAGE_PLACEHOLDER)

    def part(self, start: int, end: int) -> Encoded:
        """The positions from ``start`` to before ``end``."""
        return Encoded(*(getattr(self, each.name)[start:end] for each in fields(Encoded)))

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """All positions of several texts."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@dataclass(frozen=True)
class Sample:
    """One conversation ready for the model, before visual tokens are spliced in.

    ``visuals`` are in the order of their placeholders in ``text.input_ids``.
    """

    id: str
    text: Encoded
    visuals: list[Visual] = field(default_factory=list)
