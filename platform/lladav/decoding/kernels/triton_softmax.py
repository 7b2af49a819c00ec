"""The Triton kernel behind ``softmax_stats``: each program reads one block of one row."""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports] - only torch for CUDA installs it
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from lladav.decoding.kernels.stats import SoftmaxStats

BLOCK = 4096
"""Logits that one program reads."""


def softmax_stats_of_blocks(logits_MC: Tensor, with_entropy: bool) -> SoftmaxStats:
    """Statistics of each block of each row (M, B); ``argmax`` counts from the beginning of the row."""
    rows, ids = logits_MC.shape
    grid = rows, triton.cdiv(ids, BLOCK)

    def out(dtype: torch.dtype) -> Tensor:
        return torch.empty(grid, dtype=dtype, device=logits_MC.device)

    max_logit, argmax = out(torch.float32), out(torch.int32)
    sum_exp, weighted_sum, finite = out(torch.float32), out(torch.float32), out(torch.bool)
    kernel = _softmax_stats_kernel[grid]  # pyright: ignore[reportIndexIssue]
    kernel(logits_MC, max_logit, argmax, sum_exp, weighted_sum, finite, logits_MC.stride(0), ids, BLOCK=BLOCK)
    # The kernel is bound by memory: the second sum costs nothing, so it is always computed.
    return SoftmaxStats(max_logit, argmax, sum_exp, weighted_sum if with_entropy else None, finite)


@triton.jit
def _softmax_stats_kernel(
    logits, max_logit, argmax, sum_exp, weighted_sum, finite, stride, ids, BLOCK: tl.constexpr
):
    row, block = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    # 64-bit offset: rows times the vocabulary can exceed 2^31 logits.
    pointers = logits + row.to(tl.int64) * stride + column
    values = tl.load(pointers, mask=column < ids, other=float("-inf")).to(tl.float32)
    # The padding is -inf: it never wins the maximum, but it must not count as a logit that is not finite.
    invalid = (column < ids) & ~(tl.abs(values) < float("inf"))
    top, where = tl.max(values, axis=0, return_indices=True)
    others = (column < ids) & (column != block * BLOCK + where)
    below = tl.where(others, values - top, 0.0)
    exp = tl.where(others, tl.exp(below), 0.0)
    target = row * tl.num_programs(1) + block
    tl.store(max_logit + target, top)
    tl.store(argmax + target, block * BLOCK + where)
    tl.store(sum_exp + target, tl.sum(exp, axis=0))
    tl.store(weighted_sum + target, tl.sum(below * exp, axis=0))
    tl.store(finite + target, tl.max(invalid.to(tl.int32), axis=0) == 0)
