"""What decoding needs of a row of logits: the greatest, where it is, and sums over the others.

Logits of any float type, sums in float32. ``others`` is the sum of e^(x - greatest) over the other ids, and
``moment``, for the entropy, that of (x - greatest) e^(x - greatest). ``finite`` tells whether all logits are
finite. On a GPU one Triton kernel reads the logits once.

Shapes: M rows, C ids, B blocks of them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None


class SoftmaxStats(NamedTuple):
    """Greatest logit, its place, the sums, and whether all logits are finite, one a row.

    The other values of a row that is not finite mean nothing.
    """

    greatest_M: Tensor
    place_M: Tensor
    others_M: Tensor
    moment_M: Tensor | None
    finite_M: Tensor


def summarize(logits_MC: Tensor, moment: bool) -> SoftmaxStats:
    """The summary of each row; the logits may be overwritten."""
    if logits_MC.is_cuda and HAS_TRITON:
        from lladav.decoding.kernels.triton_softmax import summaries_of_blocks

        return merged(*summaries_of_blocks(logits_MC), moment)
    logits_MC = logits_MC.float()
    finite_M = logits_MC.sum(-1).isfinite()
    greatest_M, place_M = logits_MC.max(-1)
    below_MC = logits_MC.sub_(greatest_M[:, None])
    terms_MC = below_MC.exp() if moment else below_MC.exp_()
    moment_M = torch.linalg.vecdot(below_MC, terms_MC) if moment else None
    others_M = terms_MC.scatter_(-1, place_M[:, None], 0.0).sum(-1)
    return SoftmaxStats(greatest_M, place_M, others_M, moment_M, finite_M)


def merged(
    greatest_MB: Tensor,
    place_MB: Tensor,
    others_MB: Tensor,
    moment_MB: Tensor,
    finite_MB: Tensor,
    moment: bool,
) -> SoftmaxStats:
    """The summary of rows from those of their blocks, which count places from the row's beginning."""
    greatest_M, block_M = greatest_MB.max(-1)
    gap_MB = greatest_MB - greatest_M[:, None]
    shrink_MB = gap_MB.exp()
    other_block_MB = torch.ones_like(shrink_MB).scatter_(-1, block_M[:, None], 0.0)
    others_M = (shrink_MB * (others_MB + other_block_MB)).sum(-1)
    moment_M = None
    if moment:
        moved_MB = shrink_MB * (moment_MB + gap_MB * (1 + others_MB))
        moment_M = torch.where(shrink_MB > 0, moved_MB, 0.0).sum(-1)
    place_M = place_MB.gather(-1, block_M[:, None])[:, 0].long()
    return SoftmaxStats(greatest_M, place_M, others_M, moment_M, finite_MB.all(-1))
