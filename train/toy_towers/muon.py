"""The Muon optimizer (Jordan et al., 2024): momentum updates, orthogonalized per matrix.

It works in bfloat16 where the processor has instructions for it, else in float32: ``torch.optim.Muon`` always
works in bfloat16, which is slow on other processors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lladav.decoding.cpu_weights import fastest_dtype

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial whose iteration drives all singular values towards 1."""


class Muon(torch.optim.Optimizer):
    """Updates matrices along orthogonalized Nesterov momentum; only for the matrices inside layers."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append((parameter, self._momentum(parameter, group["momentum"])))
            for shape, pairs in by_shape.items():
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonalized(torch.stack([update for _, update in pairs]))
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.sub_(update, alpha=scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        average = state.setdefault("average", torch.zeros_like(parameter))
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, R, C) with the same singular vectors and singular values near 1."""
    linear, cubic, quintic = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(getattr(torch, fastest_dtype("cpu")))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)
