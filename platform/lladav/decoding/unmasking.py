"""How many proposals a step reveals: each rule says how many of the most confident ones.

Rows of one step follow rules of their own; a rule that a row does not follow has a value at which it reveals
nothing. Confidences of places that do not compete are minus infinity. Ties go to the earlier place.

Shapes: R rows, B places of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lladav.decoding.sequence import SequenceState


@dataclass(frozen=True)
class UnmaskingRules:
    """What each row (R) reveals by: tokens of a quota, a threshold, a factor, an entropy.

    ``masks_R`` counts the masks of its canvas, competing or not.
    """

    quota_R: Tensor
    threshold_R: Tensor
    factor_R: Tensor
    entropy_R: Tensor
    masks_R: Tensor

    @classmethod
    def of(cls, states: Sequence[SequenceState], device: torch.device | str = "cpu") -> UnmaskingRules:
        """The rules of the next step of these sequences."""
        options = [state.options for state in states]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        return cls(
            column([state.quota or 0 for state in states]),
            column([math.inf if o.threshold is None else o.threshold for o in options]),
            column([-math.inf if o.factor is None else o.factor for o in options]),
            column([-math.inf if o.entropy is None else o.entropy for o in options]),
            column([state.masks for state in states]),
        )


def revealed(confidence_RB: Tensor, entropy_RB: Tensor, rules: UnmaskingRules) -> Tensor:
    """Which places (R, B) are revealed: in each row at least the most confident one that competes."""
    ordered_RB, order_RB = confidence_RB.sort(dim=-1, descending=True, stable=True)
    places_B = torch.arange(1, ordered_RB.shape[-1] + 1, device=ordered_RB.device)
    counts_R = torch.stack(
        (
            rules.quota_R,
            (ordered_RB >= rules.threshold_R[:, None]).sum(-1),
            _by_factor(ordered_RB, places_B, rules),
            _by_entropy(entropy_RB.gather(-1, order_RB), rules.entropy_R),
        )
    ).amax(0)
    within_RB = (places_B <= counts_R.clamp(min=1)[:, None]) & (ordered_RB > -torch.inf)
    return torch.zeros_like(within_RB).scatter_(-1, order_RB, within_RB)


def _by_factor(ordered_RB: Tensor, places_B: Tensor, rules: UnmaskingRules) -> Tensor:
    """The longest run whose n-th has at least 1 - factor / (n + 1).

    A lone mask is never left over: the released rule reveals it along with the others.
    """
    enough_RB = ordered_RB >= 1 - rules.factor_R[:, None] / (places_B + 1)
    run_R = enough_RB.cumprod(-1).sum(-1)
    follows_R = rules.factor_R > 0
    run_R = torch.where(follows_R, run_R.clamp(min=1), run_R)
    return run_R + (follows_R & (run_R == rules.masks_R - 1))


def _by_entropy(entropy_RB: Tensor, bound_R: Tensor) -> Tensor:
    """The longest run whose entropies, less the largest, sum to at most the bound."""
    joint_RB = entropy_RB.cumsum(-1) - entropy_RB.cummax(-1).values
    return (joint_RB <= bound_R[:, None]).cumprod(-1).sum(-1)
