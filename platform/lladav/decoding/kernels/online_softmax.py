"""Softmax statistics of rows of logits, from which decoding gets confidence and entropy.

With x_max the largest logit of a row, two sums run over all other ids: ``sum_exp``, of e^(x - x_max), and
``weighted_sum``, of (x - x_max) e^(x - x_max), which the entropy needs. The largest logit itself is left out
of the sums, because its term of 1 would round away the others where a row is nearly certain. Statistics of
parts of a row can be merged, so that the logits of the whole vocabulary are never held (online softmax, arXiv
1805.02867).

Logits have any float type, sums are float32. On a GPU one Triton kernel reads the logits once.

Shapes: M rows, C ids.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from lladav.decoding.kernels.stats import SoftmaxStats, merge_stats

HAS_TRITON = find_spec("triton") is not None


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
