"""What a sample is between the data pipeline (or an HTTP request) and the model.

Plain numpy: these types cross process borders, so they hold no torch tensors. Tiles stay uint8 until they are
on the model's device.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

IMAGE_PLACEHOLDER = -200
"""Stands once in ``input_ids`` for each image or video, where its visual tokens will go."""

IGNORED = -100
"""Label of a position that carries no loss."""


class VisualKind(IntEnum):
    """How the features of an item's views become tokens."""

    square = 0
    """One squashed view, its tokens alone (projector stage)."""
    tiled = 1
    """Base view, then the tiles stitched, unpadded, shrunk, with a newline after each row."""
    padded = 2
    """One view padded to a square and one newline (several images in a sample)."""
    video = 3
    """Frames, each pooled, with a newline after each row."""


@dataclass(frozen=True)
class Visual:
    """One image or video: its views, and the size in pixels that the token count follows from."""

    kind: VisualKind
    width: int
    height: int
    views: np.ndarray
    """uint8 (views, 3, S, S): base view first, then tiles row by row; or frames."""


@dataclass(frozen=True)
class Encoded:
    """The text side of a conversation: arrays of one length, an image being a single ``IMAGE_PLACEHOLDER``.

    ``input_ids``, ``labels`` and ``turns`` are int32; ``turns`` counts user-assistant exchanges for
    dialogue-causal attention. ``answer`` is True at the contents of assistant turns and their eot: what is
    not template.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    turns: np.ndarray
    answer: np.ndarray

    @property
    def supervised(self) -> np.ndarray:
        """Positions (bool) that carry loss; a label at a placeholder counts for nothing."""
        return (self.labels != IGNORED) & (self.input_ids != IMAGE_PLACEHOLDER)


@dataclass(frozen=True)
class Sample:
    """One conversation ready for the model, before visual tokens are spliced in.

    ``visuals`` are in the order of their placeholders in ``text.input_ids``.
    """

    id: str
    text: Encoded
    visuals: list[Visual] = field(default_factory=list)
