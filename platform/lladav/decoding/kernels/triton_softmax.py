"""The Triton kernel behind ``summaries``: each program reads one block of one row."""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports] - it comes with torch for CUDA alone
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

BLOCK = 4096


def summaries_of_blocks(logits_MC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Greatest logit, its place in the row, both sums, and whether all are finite, for each block of each row
    (M, B).
    """
    rows, ids = logits_MC.shape
    shape = rows, triton.cdiv(ids, BLOCK)

    def out(dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits_MC.device)

    greatest, place = out(torch.float32), out(torch.int32)
    others, moment, finite = out(torch.float32), out(torch.float32), out(torch.bool)
    kernel = _summarize[shape]  # pyright: ignore[reportIndexIssue]
    kernel(logits_MC, greatest, place, others, moment, finite, logits_MC.stride(0), ids, BLOCK=BLOCK)
    return greatest, place, others, moment, finite


@triton.jit
def _summarize(logits, greatest, place, others, moment, finite, stride, ids, BLOCK: tl.constexpr):
    row, block = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(logits + row.to(tl.int64) * stride + at, mask=at < ids, other=float("-inf")).to(
        tl.float32
    )
    invalid = (at < ids) & ~(tl.abs(values) < float("inf"))
    top, where = tl.max(values, axis=0, return_indices=True)
    counts = (at < ids) & (at != block * BLOCK + where)
    below = tl.where(counts, values - top, 0.0)
    terms = tl.where(counts, tl.exp(below), 0.0)
    target = row * tl.num_programs(1) + block
    tl.store(greatest + target, top)
    tl.store(place + target, block * BLOCK + where)
    tl.store(others + target, tl.sum(terms, axis=0))
    tl.store(moment + target, tl.sum(below * terms, axis=0))
    tl.store(finite + target, tl.max(invalid.to(tl.int32), axis=0) == 0)
