"""Scores of tokens by class: the largest of each class, and the token that has it.

Columns are put in the order of their classes first. On a CPU, numpy then reduces adjacent columns at the
speed of memory; on a GPU, a scatter does.

Shapes: R rows, C columns of a chunk, L of them that belong to a class, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassColumns:
    """Columns by class: those of class k are ``first_K[k]`` up to ``end_K[k]``; class 0 has none."""

    columns_L: Tensor
    """Which columns of a chunk they are."""
    first_K: np.ndarray
    end_K: np.ndarray

    @classmethod
    def of(cls, class_C: np.ndarray, num_classes: int, device: torch.device) -> ClassColumns:
        """The columns of a chunk whose classes are ``class_C``; class 0 is left out."""
        (columns_L,) = np.nonzero(class_C)
        columns_L = columns_L[np.argsort(class_C[columns_L], kind="stable")]
        edges = np.searchsorted(class_C[columns_L], np.arange(num_classes + 1))
        return cls(torch.from_numpy(columns_L.astype(np.int32)).to(device), edges[:-1], edges[1:])

    @property
    def present_K(self) -> np.ndarray:
        """Whether a class has columns."""
        return self.end_K > self.first_K

    def gather(self, scores_RC: Tensor) -> Tensor:
        """Scores (R, L, float32) in the order of the classes."""
        return scores_RC.index_select(1, self.columns_L).float()

    def maxima(self, scores_RL: Tensor) -> Tensor:
        """The largest score of each class (R, K); minus infinity for a class without columns."""
        if scores_RL.is_cuda:
            return self._scattered_maxima(scores_RL)
        maxima_RK = np.full((len(scores_RL), len(self.first_K)), -np.inf, np.float32)
        present_K = self.present_K
        if present_K.any():
            starts = self.first_K[present_K]
            maxima_RK[:, present_K] = np.maximum.reduceat(scores_RL.numpy(), starts, axis=1)
        return torch.from_numpy(maxima_RK)

    def _scattered_maxima(self, scores_RL: Tensor) -> Tensor:
        maxima_RK = scores_RL.new_full((len(scores_RL), len(self.first_K)), -torch.inf)
        return maxima_RK.scatter_reduce_(1, self._class_L.expand_as(scores_RL), scores_RL, "amax")

    @cached_property
    def _class_L(self) -> Tensor:
        """The class of each column, on the device."""
        class_L = np.repeat(np.arange(len(self.first_K)), self.end_K - self.first_K)
        return torch.from_numpy(class_L).to(self.columns_L.device)

    def best(self, scores_RL: Tensor, class_R: np.ndarray) -> Tensor:
        """The column of the chunk (R) that has the largest score of a class; each class has columns."""
        bounds = self.first_K[class_R], self.end_K[class_R]
        search = _masked_argmax if scores_RL.is_cuda else _argmax_by_row
        return self.columns_L[search(scores_RL, *bounds)].long()


def _masked_argmax(scores_RL: Tensor, first_R: np.ndarray, end_R: np.ndarray) -> Tensor:
    bounds = torch.from_numpy(np.stack((first_R, end_R))).to(scores_RL.device)
    place_L = torch.arange(scores_RL.shape[1], device=scores_RL.device)
    outside_RL = (place_L < bounds[0, :, None]) | (place_L >= bounds[1, :, None])
    return scores_RL.masked_fill(outside_RL, -torch.inf).argmax(1)


def _argmax_by_row(scores_RL: Tensor, first_R: np.ndarray, end_R: np.ndarray) -> Tensor:
    rows = zip(scores_RL.numpy(), first_R, end_R, strict=True)
    return torch.tensor([first + int(scores_L[first:end].argmax()) for scores_L, first, end in rows])
