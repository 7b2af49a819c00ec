"""Maxima of scores over classes of tokens.

The tokens of a class are adjacent columns. On a CPU, numpy reduces adjacent columns at the speed of memory;
on a GPU, a scatter does.

Shapes: R rows, L tokens in the order of their classes, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassBounds:
    """Columns of each class: ``first_K`` up to ``end_K``; a class may have none."""

    first_K: np.ndarray
    end_K: np.ndarray

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """First and end column of each class."""
        return self.first_K, self.end_K

    @property
    def present_K(self) -> np.ndarray:
        """Whether a class has tokens."""
        return self.end_K > self.first_K


def class_maxima(scores_RL: Tensor, bounds: ClassBounds) -> Tensor:
    """The largest score of each class (R, K); minus infinity for a class without tokens."""
    num_classes = len(bounds.first_K)
    maxima_RK = scores_RL.new_full((len(scores_RL), num_classes), -torch.inf)
    if scores_RL.is_cuda:
        sizes_K = torch.from_numpy(bounds.end_K - bounds.first_K).to(scores_RL.device)
        class_L = torch.arange(num_classes, device=scores_RL.device).repeat_interleave(sizes_K)
        return maxima_RK.scatter_reduce_(1, class_L.expand_as(scores_RL), scores_RL, "amax")
    present_K = bounds.present_K
    if present_K.any():
        starts = bounds.first_K[present_K]
        maxima_RK.numpy()[:, present_K] = np.maximum.reduceat(scores_RL.numpy(), starts, axis=1)
    return maxima_RK


def best_columns(scores_RL: Tensor, first_R: np.ndarray, end_R: np.ndarray) -> Tensor:
    """The column of the largest score (R) among ``first_R`` up to ``end_R``; the first one of equals.

    It is 0 where there is no column.
    """
    if scores_RL.is_cuda:
        first_R1, end_R1 = (torch.from_numpy(each).to(scores_RL.device)[:, None] for each in (first_R, end_R))
        columns_L = torch.arange(scores_RL.shape[1], device=scores_RL.device)
        outside_RL = (columns_L < first_R1) | (columns_L >= end_R1)
        return scores_RL.masked_fill(outside_RL, -torch.inf).argmax(1)
    columns_R = np.zeros(len(scores_RL), np.int64)
    for row, (scores_L, first, end) in enumerate(zip(scores_RL.numpy(), first_R, end_R, strict=True)):
        if first < end:
            columns_R[row] = first + scores_L[first:end].argmax()
    return torch.from_numpy(columns_R)
