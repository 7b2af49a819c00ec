"""The weighted cross-entropy of an objective (Eq. 6), computed for the predicted rows only.

The released trainer computes float32 logits for every position. Only predicted rows carry loss, so only these
are projected to the vocabulary here, one chunk at a time. Gradients are computed chunk-wise in the forward
pass (fused linear cross-entropy, as in Liger), so the logits of a chunk are freed before the next.

Shapes: M predicted rows, W width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


@dataclass(frozen=True)
class TargetRows:
    """Target ids (M) and float32 weights (M) of the predicted rows, and the number of rows in a chunk."""

    targets_M: Tensor
    weights_M: Tensor
    chunk: int

    def to(self, device: torch.device | str) -> TargetRows:
        """The rows with their tensors on ``device``."""
        return TargetRows(self.targets_M.to(device), self.weights_M.to(device), self.chunk)


def fused_cross_entropy(hidden_MW: Tensor, head_VW: Tensor, rows: TargetRows) -> tuple[Tensor, Tensor]:
    """Weighted sum of the rows' cross-entropies, and the cross-entropy of each row (M, no gradient).

    Cross-entropy is computed in float32, whatever the dtype of the projection.
    """
    if not torch.is_grad_enabled():
        hidden_MW, head_VW = hidden_MW.detach(), head_VW.detach()
    return _FusedCrossEntropy.apply(hidden_MW, head_VW, rows)  # pyright: ignore[reportReturnType]


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MW: Tensor, head_VW: Tensor, rows: TargetRows) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden_MW) if needs_hidden else None
        grad_head = torch.zeros_like(head_VW) if needs_head else None
        entropies = [
            _chunk(hidden_MW, head_VW, rows, slice(start, start + rows.chunk), grad_hidden, grad_head)
            for start in range(0, len(hidden_MW), rows.chunk)
        ]
        entropy_M = torch.cat(entropies) if entropies else hidden_MW.new_zeros(0, dtype=torch.float32)
        ctx.gradients = grad_hidden, grad_head
        ctx.mark_non_differentiable(entropy_M)
        return (entropy_M * rows.weights_M).sum(), entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        # Scaled in place and released: a second copy of the head's gradient would be the peak of a step.
        gradients, ctx.gradients = ctx.gradients, None
        grad_hidden, grad_head = (
            gradient.mul_(grad_loss) if gradient is not None else None for gradient in gradients
        )
        return grad_hidden, grad_head, None


def _chunk(
    hidden_MW: Tensor,
    head_VW: Tensor,
    rows: TargetRows,
    part: slice,
    grad_hidden: Tensor | None,
    grad_head: Tensor | None,
) -> Tensor:
    """Cross-entropy of the rows ``part``; adds their share to the gradients in place."""
    hidden, targets = hidden_MW[part], rows.targets_M[part]
    logits = linear(hidden, head_VW).float()
    log_total = logits.logsumexp(-1, keepdim=True)
    entropy = (log_total - logits.gather(-1, targets[:, None])).squeeze(-1)
    if grad_hidden is not None or grad_head is not None:
        grad_logits = _grad_logits(logits, log_total, targets, rows.weights_M[part]).to(hidden.dtype)
        if grad_hidden is not None:
            grad_hidden[part] = grad_logits @ head_VW
        if grad_head is not None:
            grad_head.addmm_(grad_logits.T, hidden)
    return entropy


def _grad_logits(logits: Tensor, log_total: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the weighted cross-entropies with respect to the logits; overwrites ``logits``."""
    probability = logits.sub_(log_total).exp_()
    probability[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    return probability.mul_(weights[:, None])
