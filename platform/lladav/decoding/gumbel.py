"""Gumbel noise and the tokens that may be drawn, for sampling by Gumbel-max."""

from __future__ import annotations

import torch
from torch import Tensor

from lladav.decoding.token_limits import TokenLimits

TINY = torch.finfo(torch.float32).tiny


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent Gumbel noise for each element of ``like``."""
    # -log of an exponential draw is Gumbel noise; the clamp avoids the logarithm of zero.
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp_min(TINY).log()


def drawable(logits: Tensor, temperature: float, limits: TokenLimits) -> Tensor:
    """Which tokens may be drawn in each row of ``logits``."""
    ordered, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
    within = torch.ones_like(ordered, dtype=torch.bool)
    if limits.top_k is not None:
        within[..., limits.top_k :] = False
        ordered = ordered * within
        ordered /= ordered.sum(-1, keepdim=True)
    if limits.top_p < 1:  # the sum of all but the last may round to 1
        within &= ordered.cumsum(-1) - ordered < limits.top_p
    within &= ordered >= limits.min_p * ordered[..., :1]
    return torch.zeros_like(within).scatter_(-1, order, within)
