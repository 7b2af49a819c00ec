"""Samples of different lengths as one packed batch without padding.

Samples are concatenated along T. A batch of text alone still carries one blank view: every rank of a sharded
model must run the same modules in the same order, whatever its samples hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lladav.errors import UserError
from lladav.inputs.images import ViewGeometry, token_count
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Sample, VisualShape


@dataclass(frozen=True)
class ExpandedSample:
    """One sample with an element for each of its positions, visual tokens included.

    ``ids``, ``labels`` and ``turns`` are int64, ``answer`` and ``visual`` boolean.
    """

    ids: np.ndarray
    labels: np.ndarray
    turns: np.ndarray
    answer: np.ndarray
    visual: np.ndarray


@dataclass(frozen=True)
class PackedBatch:
    """T positions of all samples and N views of all their images and videos.

    ``token_ids_T``, ``labels_T`` and ``turns_T`` are int64, ``answer_T`` is boolean; visual positions hold id
    0 and label ``IGNORED``. ``visual_positions_V`` are the positions of the visual tokens, ascending.
    ``views_NCHW`` are uint8 pixels; ``shapes`` tell which views belong to which image or video.
    """

    token_ids_T: Tensor
    labels_T: Tensor
    turns_T: Tensor
    answer_T: Tensor
    visual_positions_V: Tensor
    views_NCHW: Tensor
    lengths: list[int]
    shapes: list[VisualShape]

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with its tensors on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items()})


def pack(samples: Sequence[Sample], geometry: ViewGeometry) -> PackedBatch:
    """Expand each sample's placeholders to visual positions and concatenate the samples."""
    expanded = [expand_placeholders(sample, geometry) for sample in samples]
    ids, labels, turns, answer, visual = (
        np.concatenate([getattr(e, f.name) for e in expanded]) for f in fields(ExpandedSample)
    )
    visuals = [visual for sample in samples for visual in sample.visuals]
    blank = np.zeros((1, 3, geometry.tile, geometry.tile), np.uint8)
    return PackedBatch(
        token_ids_T=torch.from_numpy(ids),
        labels_T=torch.from_numpy(labels),
        turns_T=torch.from_numpy(turns),
        answer_T=torch.from_numpy(answer),
        visual_positions_V=torch.from_numpy(np.flatnonzero(visual)),
        views_NCHW=torch.from_numpy(np.concatenate([v.views for v in visuals]) if visuals else blank),
        lengths=[len(e.ids) for e in expanded],
        shapes=[visual.shape for visual in visuals],
    )


def expand_placeholders(sample: Sample, geometry: ViewGeometry) -> ExpandedSample:
    """Repeat each placeholder of a sample once for each of its visual tokens.

    Raises ``UserError`` if the number of placeholders differs from the number of images and videos.
    """
    text = sample.text
    placeholders = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
    if len(placeholders) != len(sample.visuals):
        raise UserError(
            f"sample {sample.id}: {len(placeholders)} <image> marks for {len(sample.visuals)} images; "
            "make them match"
        )
    repeats = np.ones(len(text.input_ids), np.int64)
    repeats[placeholders] = [token_count(visual.shape, geometry) for visual in sample.visuals]
    ids, labels, turns = (
        np.repeat(v, repeats).astype(np.int64) for v in (text.input_ids, text.labels, text.turns)
    )
    visual = ids == IMAGE_PLACEHOLDER
    ids, labels = np.where(visual, 0, ids), np.where(visual, IGNORED, labels)
    return ExpandedSample(ids, labels, turns, np.repeat(text.answer, repeats), visual)
