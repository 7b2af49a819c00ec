"""Samples of different lengths as one packed batch without padding.

Samples lie one after another along T. A batch of text alone still carries one blank view, so that every rank
of a sharded model runs the same modules in the same order whatever its samples hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lladav.errors import UserError
from lladav.inputs.images import ViewGeometry, tokens_of
from lladav.inputs.types import IGNORED, IMAGE_PLACEHOLDER, Sample, VisualKind


@dataclass(frozen=True)
class Item:
    """What merging needs to know of one image or video: kind, size in pixels and number of views."""

    kind: VisualKind
    width: int
    height: int
    views: int


@dataclass(frozen=True)
class Expanded:
    """One sample position by position, visual tokens included.

    ``ids``, ``labels`` and ``turns`` are int64, ``answer`` and ``visual`` boolean.
    """

    ids: np.ndarray
    labels: np.ndarray
    turns: np.ndarray
    answer: np.ndarray
    visual: np.ndarray


@dataclass(frozen=True)
class PackedBatch:
    """T positions of all samples, N views of all their items.

    ``token_ids_T`` and ``labels_T`` are int64 (visual positions hold id 0 and ``IGNORED``), ``turns_T``
    int64, ``answer_T`` boolean; ``visual_positions_V`` are the positions that visual tokens take, in order;
    ``views_NCHW`` are uint8 pixels.
    """

    token_ids_T: Tensor
    labels_T: Tensor
    turns_T: Tensor
    answer_T: Tensor
    visual_positions_V: Tensor
    views_NCHW: Tensor
    lengths: list[int]
    items: list[Item]

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with its tensors on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in tensors.items()})


def pack(samples: Sequence[Sample], geometry: ViewGeometry) -> PackedBatch:
    """Splice the visual positions into each sample and lay the samples end to end."""
    expanded = [expand(sample, geometry) for sample in samples]
    ids, labels, turns, answer, visual = (
        np.concatenate([getattr(e, f.name) for e in expanded]) for f in fields(Expanded)
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
        items=[Item(v.kind, v.width, v.height, len(v.views)) for v in visuals],
    )


def expand(sample: Sample, geometry: ViewGeometry) -> Expanded:
    """The sample's positions with each placeholder repeated to its number of visual tokens.

    Raises ``UserError`` where placeholders and visuals do not pair up.
    """
    text = sample.text
    places = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
    if len(places) != len(sample.visuals):
        raise UserError(
            f"sample {sample.id}: {len(places)} <image> marks for {len(sample.visuals)} images; "
            "make them match"
        )
    repeats = np.ones(len(text.input_ids), np.int64)
    repeats[places] = [tokens_of(visual, geometry) for visual in sample.visuals]
    ids, labels, turns = (
        np.repeat(v, repeats).astype(np.int64) for v in (text.input_ids, text.labels, text.turns)
    )
    visual = ids == IMAGE_PLACEHOLDER
    ids, labels = np.where(visual, 0, ids), np.where(visual, IGNORED, labels)
    return Expanded(ids, labels, turns, np.repeat(text.answer, repeats), visual)
