"""Gumbel noise and the nucleus of a distribution, for sampling by Gumbel-max."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent Gumbel noise for each element of ``like``."""
    # -log of an exponential draw is Gumbel noise; the clamp avoids the logarithm of zero.
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp_min(TINY).log()


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """The most probable ids that hold ``top_p`` of the probability, including the one that crosses it."""
    ordered, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
    within = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(within).scatter_(-1, order, within)
