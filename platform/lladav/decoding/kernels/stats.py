"""The record of softmax statistics, and how statistics of parts of a row are merged.

Shapes: M rows, B parts of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SoftmaxStats(NamedTuple):
    """Statistics of each row (M), or of each part of each row (M, B).

    ``finite`` tells whether all logits are finite; if they are not, the other values mean nothing.
    ``weighted_sum`` is None unless the entropy is needed.
    """

    max_logit: Tensor
    argmax: Tensor
    sum_exp: Tensor
    weighted_sum: Tensor | None
    finite: Tensor


def stack_stats(parts: Sequence[SoftmaxStats]) -> SoftmaxStats:
    """Statistics of parts (M) as those of each part of each row (M, B)."""
    columns = zip(*parts, strict=True)
    return SoftmaxStats(*(None if each[0] is None else torch.stack(each, -1) for each in columns))  # pyright: ignore


def merge_stats(parts: SoftmaxStats) -> SoftmaxStats:
    """Statistics of each row (M) from those of its parts (M, B), whose ``argmax`` counts from the row's
    start.

    The sums of each part are rescaled from its own largest logit to that of the row. The largest logit of
    every part but the winner is one more term of the sums.
    """
    max_M, winner_M = parts.max_logit.max(-1)
    gap_MB = parts.max_logit - max_M[:, None]
    scale_MB = gap_MB.exp()
    own_max_MB = torch.ones_like(scale_MB).scatter_(-1, winner_M[:, None], 0.0)
    sum_exp_M = (scale_MB * (parts.sum_exp + own_max_MB)).sum(-1)
    weighted_M = None
    if parts.weighted_sum is not None:
        # The winner's gap is 0, so its 1 adds nothing.
        moved_MB = scale_MB * (parts.weighted_sum + gap_MB * (1 + parts.sum_exp))
        # A gap so large that the scale is 0 may be infinite; 0 times it would be NaN.
        weighted_M = torch.where(scale_MB > 0, moved_MB, 0.0).sum(-1)
    argmax_M = parts.argmax.gather(-1, winner_M[:, None])[:, 0].long()
    return SoftmaxStats(max_M, argmax_M, sum_exp_M, weighted_M, parts.finite.all(-1))
