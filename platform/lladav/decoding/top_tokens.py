"""The most probable tokens of rows, collected while the vocabulary chunks pass by.

Shapes: M rows of a step, S rows that ask, C ids of a vocabulary chunk, K tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from lladav.decoding.kernels.stats import SoftmaxStats
from lladav.decoding.sequence import RankedTokens


class AskedRows(Protocol):
    """How many rows a request has, and how many tokens it asks for."""

    @property
    def rows(self) -> int: ...

    @property
    def top_logprobs(self) -> int: ...


class TopTokens:
    """The most probable tokens of the rows of requests that ask for them."""

    def __init__(self, requests: Sequence[AskedRows], device: torch.device) -> None:
        starts = accumulate((each.rows for each in requests), initial=0)
        self._count_of = {
            row: each.top_logprobs
            for each, start in zip(requests, starts, strict=False)
            if each.top_logprobs
            for row in range(start, start + each.rows)
        }
        """How many tokens each row asks for."""
        if not self._count_of:
            return
        self._rows_S = torch.tensor(list(self._count_of), dtype=torch.long, device=device)
        self._values_SK = torch.empty((len(self._rows_S), 0), device=device)
        self._tokens_SK = torch.empty((len(self._rows_S), 0), dtype=torch.long, device=device)

    @property
    def asked(self) -> bool:
        """Whether any row asks."""
        return bool(self._count_of)

    def add(self, logits_MC: Tensor, start: int) -> None:
        """Add a chunk, which begins at id ``start``."""
        if not self._count_of:
            return
        most = max(self._count_of.values())
        logits_SC = logits_MC[self._rows_S].float()
        chunk = logits_SC.topk(min(most, logits_SC.shape[-1]))
        values_SK = torch.cat((self._values_SK, chunk.values), -1)
        tokens_SK = torch.cat((self._tokens_SK, chunk.indices + start), -1)
        best = values_SK.topk(min(most, values_SK.shape[-1]))
        self._values_SK, self._tokens_SK = best.values, tokens_SK.gather(-1, best.indices)

    def normalize(self, stats: SoftmaxStats) -> None:
        """Turn logits into log-probabilities, given the softmax statistics of all rows."""
        if self._count_of:
            total_M = stats.max_logit.float() + stats.sum_exp.log1p()
            self._values_SK = self._values_SK - total_M[self._rows_S, None]

    def of(self, rows: Sequence[int]) -> list[RankedTokens]:
        """The tokens of some rows; none for a row that does not ask."""
        index = {row: number for number, row in enumerate(self._count_of)}
        asking = [row for row in rows if row in index]
        if not asking:
            return [[] for _ in rows]
        select = torch.tensor([index[row] for row in asking], device=self._rows_S.device)
        # float64 holds token ids exactly: one copy for both
        both = torch.stack((self._tokens_SK[select].double(), self._values_SK[select].double()))
        tokens_SK, values_SK = both.cpu()
        found = {
            row: list(zip(tokens.long().tolist(), values.tolist(), strict=True))[: self._count_of[row]]
            for row, tokens, values in zip(asking, tokens_SK, values_SK, strict=True)
        }
        return [found.get(row, []) for row in rows]
