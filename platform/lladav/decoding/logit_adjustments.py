"""What is changed in the logits of a step before anything else looks at them: biases, penalties, bans.

In this order: the bias of a request is added; penalties lower the logits of tokens that its answer has; ids
that a row may not become get ``FORBIDDEN_LOGIT``. Probabilities are those after the changes.

Shapes: M rows, C ids of a vocabulary chunk, N (row, id) pairs, A ids of a request, R rows of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.penalties import RepetitionPenalties

FORBIDDEN_LOGIT = -1e30
"""Finite, so that its product with a probability of zero is zero and not NaN."""


class AdjustedRequest(Protocol):
    """What the sampling parameters of a request say about its logits."""

    @property
    def rows(self) -> int: ...

    @property
    def forbidden(self) -> Sequence[int]: ...

    @property
    def suppressed(self) -> Mapping[int, Sequence[int]]: ...

    @property
    def bias(self) -> Mapping[int, float]: ...

    @property
    def penalties(self) -> RepetitionPenalties | None: ...


class LogitAdjustments:
    """The changes of all rows of a step."""

    def __init__(self, requests: Sequence[AdjustedRequest], device: torch.device) -> None:
        self._changes: list[_TokenBias | _Penalties] = []
        banned: dict[int, Sequence[int]] = {}
        for request, rows in _with_slices(requests):
            if request.bias:
                self._changes.append(_TokenBias(request.bias, rows, device))
            if request.penalties is not None:
                self._changes.append(_Penalties(request.penalties, rows, device))
            banned |= {rows.start + row: ids for row, ids in request.suppressed.items()}
        self._forbidden = [(request.forbidden, rows) for request, rows in _with_slices(requests)]
        self._suppressed = _RowIds(banned, device) if banned else None

    def apply(self, logits_MC: Tensor, start: int) -> None:
        """Change the logits of a chunk, which begins at id ``start``, in place."""
        for change in self._changes:
            change.apply(logits_MC, start)
        for forbidden, rows in self._forbidden:
            if ids := [i - start for i in forbidden if start <= i < start + logits_MC.shape[-1]]:
                logits_MC[rows, ids] = FORBIDDEN_LOGIT
        if self._suppressed is not None:
            logits_MC[self._suppressed.within(logits_MC, start)] = FORBIDDEN_LOGIT


def _with_slices(requests: Sequence[AdjustedRequest]) -> Iterator[tuple[AdjustedRequest, slice]]:
    start = 0
    for each in requests:
        yield each, slice(start, start + each.rows)
        start += each.rows


class _AscendingIds:
    """Ids in ascending order, on the host too: so a chunk finds its own without a copy from the device."""

    def __init__(self, ids_N: np.ndarray, device: torch.device) -> None:
        self.order = np.argsort(ids_N, kind="stable")
        self._host_N = ids_N[self.order]
        self._device_N = torch.from_numpy(self._host_N).to(device)

    def within(self, logits_MC: Tensor, start: int) -> tuple[slice, Tensor]:
        """Which ids are those of a chunk, and their columns in it."""
        first, end = np.searchsorted(self._host_N, (start, start + logits_MC.shape[-1])).tolist()
        return slice(first, end), self._device_N[first:end] - start


class _RowIds:
    """Ids of some rows (N)."""

    def __init__(self, ids: Mapping[int, Sequence[int]], device: torch.device) -> None:
        rows_N = np.fromiter(ids, np.int64).repeat([len(each) for each in ids.values()])
        self._ids = _AscendingIds(np.fromiter(chain.from_iterable(ids.values()), np.int64), device)
        self._rows_N = torch.from_numpy(rows_N[self._ids.order]).to(device)

    def within(self, logits_MC: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the ids in a chunk."""
        found, columns = self._ids.within(logits_MC, start)
        return self._rows_N[found], columns


class _TokenValues:
    """A number for some ids (A) of all rows of a request."""

    def __init__(self, values: Mapping[int, float], rows: slice, device: torch.device) -> None:
        self._rows = rows
        self._ids = _AscendingIds(np.fromiter(values, np.int64), device)
        ascending = np.fromiter(values.values(), np.float32)[self._ids.order]
        self._values_A = torch.from_numpy(ascending).to(device)

    def apply(self, logits_MC: Tensor, start: int) -> None:
        """Change the logits of a chunk in place."""
        found, columns = self._ids.within(logits_MC, start)
        if found.start < found.stop:
            rows_RC = logits_MC[self._rows]
            rows_RC[:, columns] = self._changed(rows_RC[:, columns], self._values_A[found]).to(rows_RC.dtype)

    def _changed(self, logits_RA: Tensor, values_A: Tensor) -> Tensor:
        raise NotImplementedError


class _TokenBias(_TokenValues):
    """Adds the bias of each token."""

    def _changed(self, logits_RA: Tensor, values_A: Tensor) -> Tensor:
        return logits_RA + values_A


class _Penalties(_TokenValues):
    """Lowers the logits of tokens by how often the answer has them."""

    def __init__(self, penalties: RepetitionPenalties, rows: slice, device: torch.device) -> None:
        super().__init__(penalties.counts, rows, device)
        self._penalties = penalties

    def _changed(self, logits_RA: Tensor, values_A: Tensor) -> Tensor:
        own = self._penalties
        divided_RA = torch.where(logits_RA > 0, logits_RA / own.repetition, logits_RA * own.repetition)
        return divided_RA - own.frequency * values_A - own.presence
