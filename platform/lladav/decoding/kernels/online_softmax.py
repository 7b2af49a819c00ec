"""Softmax statistics of rows of logits, from which decoding gets confidence and entropy.

With x_max the largest logit of a row, two sums run over all other ids: ``sum_exp``, of e^(x - x_max), and
``weighted_sum``, of (x - x_max) e^(x - x_max), which the entropy needs. The largest logit itself is left out
of the sums, because its term of 1 would round away the others where a row is nearly certain. Statistics of
parts of a row can be merged, so that the logits of the whole vocabulary are never held (online softmax, arXiv
1805.02867).

Logits have any float type, sums are float32. On a GPU one Triton kernel reads the logits once.

Shapes: M rows, C ids, B parts of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None


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


def softmax_stats(logits_MC: Tensor, with_entropy: bool) -> SoftmaxStats:
    """Statistics of each row (M); overwrites the logits."""
    if logits_MC.is_cuda and HAS_TRITON:
        from lladav.decoding.kernels.triton_softmax import softmax_stats_of_blocks

        return merge_stats(softmax_stats_of_blocks(logits_MC, with_entropy))
    logits_MC = logits_MC.float()
    finite_M = logits_MC.sum(-1).isfinite()  # one NaN or infinity makes the sum not finite
    max_M, argmax_M = logits_MC.max(-1)
    below_MC = logits_MC.sub_(max_M[:, None])
    exp_MC = below_MC.exp() if with_entropy else below_MC.exp_()
    weighted_M = torch.linalg.vecdot(below_MC, exp_MC) if with_entropy else None
    sum_exp_M = exp_MC.scatter_(-1, argmax_M[:, None], 0.0).sum(-1)
    return SoftmaxStats(max_M, argmax_M, sum_exp_M, weighted_M, finite_M)


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
