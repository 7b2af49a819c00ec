"""Which token each masked position proposes, and which proposals a step reveals: pure functions.

Confidences of positions that do not compete are minus infinity; such a position is never revealed. Ties go to
the earlier position.

Shapes: M competing positions, V vocabulary, R rows, G positions of a row's canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor


def propose(logits_MV: Tensor, noise_MV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The proposed tokens (M) and their probability (M, float64) without the noise."""
    noisy_MV = logits_MV if noise_MV is None else logits_MV + noise_MV
    tokens_M = noisy_MV.argmax(-1)
    return tokens_M, probability(logits_MV, tokens_M)


def probability(logits_MV: Tensor, tokens_M: Tensor) -> Tensor:
    """Softmax probability (M, float64) of one token each, from float32 terms.

    The other tokens are summed apart, which keeps the order of near-certain positions: a plain float32
    softmax calls them all 1.
    """
    terms_MV = (logits_MV.float() - logits_MV.float().amax(-1, keepdim=True)).exp_()
    own_M1 = terms_MV.gather(-1, tokens_M[:, None])
    others_M = terms_MV.scatter_(-1, tokens_M[:, None], 0.0).sum(-1).double()
    own_M = own_M1[:, 0].double()
    return own_M / (own_M + others_M)


def gumbel_noise(shape: tuple[int, int], temperature: float, generator: torch.Generator) -> Tensor:
    """Noise (float64) whose sum with logits has its maximum at a sample of softmax(logits / temperature)."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return -temperature * torch.log(-torch.log(uniform))


def by_quota(confidence_RG: Tensor, quota_R: Tensor) -> Tensor:
    """The ``quota_R`` most confident positions of each row."""
    return (_ranks(confidence_RG) < quota_R[:, None]) & _competing(confidence_RG)


def by_threshold(confidence_RG: Tensor, threshold: float) -> Tensor:
    """Every position of at least this confidence, and always the most confident one."""
    return ((confidence_RG >= threshold) | (_ranks(confidence_RG) == 0)) & _competing(confidence_RG)


def by_factor(confidence_RG: Tensor, factor: float, masks_R: Tensor) -> Tensor:
    """The longest run of the most confident positions whose n-th has at least 1 - factor / (n + 1).

    At least one position, and a lone mask is never left over: the released rule reveals it along with the
    others. ``masks_R`` counts the masks of each row, competing or not.
    """
    ordered_RG = confidence_RG.sort(-1, descending=True).values
    counts_G = torch.arange(1, ordered_RG.shape[-1] + 1, device=ordered_RG.device)
    enough_RG = ordered_RG >= 1 - factor / (counts_G + 1)
    enough_RG[:, 0] = True
    run_R = enough_RG.cumprod(-1).sum(-1)
    return by_quota(confidence_RG, run_R + (run_R == masks_R - 1))


def _ranks(confidence_RG: Tensor) -> Tensor:
    order_RG = confidence_RG.argsort(dim=-1, descending=True, stable=True)
    return order_RG.argsort(dim=-1)


def _competing(confidence_RG: Tensor) -> Tensor:
    return confidence_RG > -torch.inf
