"""Sampler: token, probability and entropy of each output position, in one pass over the vocabulary.

The LM head is applied in vocabulary chunks whose logits stay in the processor's cache. Each row keeps softmax
statistics of the chunks so far; logits of the whole vocabulary are held only for rows that sample with
``top_p`` or follow an outline. The probability comes from the sum over the *other* ids, which keeps
near-certain rows in order: a plain float32 softmax rounds them all to 1.

Shapes: M rows (output positions), C ids of a vocabulary chunk, W width, K rows with guidance, N
suppressed ids of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.constraints import OpeningScores, StepConstraint
from lladav.decoding.cpu_weights import Projection
from lladav.decoding.gumbel import gumbel_noise, nucleus
from lladav.decoding.kernels.online_softmax import softmax_stats
from lladav.decoding.kernels.stats import SoftmaxStats, merge_stats, stack_stats
from lladav.decoding.structured_sampler import ConstrainedRows, StructuredDraw

FORBIDDEN_LOGIT = -1e30
"""Finite, so that its product with a probability of zero is zero and not NaN."""


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are sampled, which has ``rows`` consecutive rows."""

    rows: int
    forbidden: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    entropy: bool = False
    """Whether the unmasking rule needs the entropy."""
    suppressed: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Ids that a row, counted from the first row of the request, may not become."""
    constraint: StepConstraint | None = None
    """What an outline demands of the rows."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of some rows (K): their hidden states in the unconditional branch (K, W) and
    their guidance scale (K).
    """

    rows_K: Tensor
    unconditional_KW: Tensor
    scale_K: Tensor


@dataclass(frozen=True)
class SamplerOutput:
    """Sampled token (M), its probability (M, float64), and the entropy of its position (M, float64, nats) if
    a request needs it. The probability is NaN for rows with logits that are not finite.
    """

    tokens_M: Tensor
    confidence_M: Tensor
    entropy_M: Tensor | None
    openings: Sequence[OpeningScores] = ()
    """Scores of the openings of each request that has some, in the order of the requests."""


def sample(
    hidden_MW: Tensor,
    head: Sequence[Projection],
    params: Sequence[SamplingParams],
    guidance: Guidance | None = None,
) -> SamplerOutput:
    """Sample all rows with an LM head in vocabulary chunks; ``params`` cover the rows in order."""
    if sum(each.rows for each in params) != len(hidden_MW):
        raise ValueError("the sampling parameters do not cover the rows")
    with_entropy = any(each.entropy for each in params)
    draws = _draws(params, hidden_MW.device)
    restrictions = _Restrictions.of(params, hidden_MW.device)
    stats, start = None, 0
    for chunk in head:
        logits_MC = _guided_logits(hidden_MW, chunk, guidance)
        restrictions.apply(logits_MC, start)
        for draw in draws:
            draw.add(logits_MC, start)
        stats = _added(stats, softmax_stats(logits_MC, with_entropy), start)  # overwrites the logits
        start += logits_MC.shape[-1]
    assert stats is not None
    return _output(stats, draws)


def _draws(params: Sequence[SamplingParams], device: torch.device) -> list[_GumbelMax | StructuredDraw]:
    """How the tokens of rows come about that are not simply the most probable ones."""
    draws: list[_GumbelMax | StructuredDraw] = []
    constrained = list[ConstrainedRows]()
    for each, rows in _with_slices(params):
        if each.constraint is not None:
            own = range(rows.start, rows.stop)
            constrained.append(
                ConstrainedRows(each.constraint, own, each.temperature, each.top_p, each.generator)
            )
        elif each.temperature > 0:
            draws.append(_GumbelMax(each, rows))
    return [*draws, StructuredDraw(constrained, device)] if constrained else draws


def _guided_logits(hidden_MW: Tensor, chunk: Projection, guidance: Guidance | None) -> Tensor:
    logits_MC = chunk(hidden_MW)
    if guidance is not None:
        logits_MC = logits_MC.float()
        unconditional_KC = chunk(guidance.unconditional_KW).float()
        conditional_KC = logits_MC[guidance.rows_K]
        moved_KC = guidance.scale_K[:, None] * (conditional_KC - unconditional_KC)
        logits_MC[guidance.rows_K] = conditional_KC + moved_KC
    return logits_MC


def _with_slices(params: Sequence[SamplingParams]) -> Iterator[tuple[SamplingParams, slice]]:
    start = 0
    for each in params:
        yield each, slice(start, start + each.rows)
        start += each.rows


@dataclass(frozen=True)
class _Restrictions:
    """Which ids the rows of a step may not become."""

    params: Sequence[SamplingParams]
    suppressed: _RowIds | None

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> _Restrictions:
        return cls(params, _RowIds.of(params, device))

    def apply(self, logits_MC: Tensor, start: int) -> None:
        """Set the logits of ids that a row may not become to ``FORBIDDEN_LOGIT``."""
        for each, rows in _with_slices(self.params):
            ids = [i - start for i in each.forbidden if start <= i < start + logits_MC.shape[-1]]
            if ids:
                logits_MC[rows, ids] = FORBIDDEN_LOGIT
        if self.suppressed is not None:
            logits_MC[self.suppressed.within(logits_MC, start)] = FORBIDDEN_LOGIT


class _RowIds:
    """Ids of some rows.

    The ids are in ascending order on the host too, so that each chunk finds its own without a copy from the
    device.
    """

    def __init__(self, ids: Mapping[int, Sequence[int]], device: torch.device) -> None:
        rows_N = np.fromiter(ids, np.int64).repeat([len(each) for each in ids.values()])
        ids_N = np.fromiter(chain.from_iterable(ids.values()), np.int64)
        order = np.argsort(ids_N, kind="stable")
        self._ascending_N = ids_N[order]
        self._rows_N, self._ids_N = (
            torch.from_numpy(each).to(device) for each in (rows_N[order], self._ascending_N)
        )

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> _RowIds | None:
        """The suppressed ids of all requests; None if there are none."""
        by_row = {
            rows.start + row: ids
            for each, rows in _with_slices(params)
            for row, ids in each.suppressed.items()
        }
        return cls(by_row, device) if by_row else None

    def within(self, logits_MC: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the ids in a chunk."""
        first, end = np.searchsorted(self._ascending_N, (start, start + logits_MC.shape[-1])).tolist()
        return self._rows_N[first:end], self._ids_N[first:end] - start


def _added(stats: SoftmaxStats | None, chunk: SoftmaxStats, start: int) -> SoftmaxStats:
    """Statistics of the chunks so far and of one more chunk, which begins at id ``start``."""
    chunk = chunk._replace(argmax=chunk.argmax + start)
    if stats is None:
        return chunk
    return merge_stats(stack_stats((stats, chunk)))


def _output(stats: SoftmaxStats, draws: Sequence[_GumbelMax | StructuredDraw]) -> SamplerOutput:
    sum_exp_M = stats.sum_exp.double()
    tokens_M = stats.argmax.clone()
    confidence_M = (1 / (1 + sum_exp_M)).where(stats.finite, torch.nan)
    openings: list[OpeningScores] = []
    for draw in draws:
        rows, (tokens, logits, scores) = draw.rows, draw.drawn()
        openings += scores
        # From the probability of the most probable token to that of the drawn one.
        ratio = (logits.double() - stats.max_logit[rows].double()).exp()
        confidence_M[rows] *= torch.where(tokens == tokens_M[rows], 1.0, ratio)
        tokens_M[rows] = tokens
    entropy_M = None
    if stats.weighted_sum is not None:
        entropy_M = sum_exp_M.log1p() - stats.weighted_sum.double() / (1 + sum_exp_M)
    return SamplerOutput(tokens_M, confidence_M, entropy_M, openings)


class _GumbelMax:
    """Sampling of one request by Gumbel-max.

    The noise comes from the generator of the request, so it does not depend on the other rows of the step.
    """

    def __init__(self, params: SamplingParams, rows: slice) -> None:
        self.rows = rows
        self._params = params
        self._chunks: list[Tensor] = []
        self._best: tuple[Tensor, Tensor, Tensor] | None = None
        """Noisy logit, token and logit of the winner so far."""

    def add(self, logits_MC: Tensor, start: int) -> None:
        """Add a chunk, which begins at id ``start``."""
        logits = logits_MC[self.rows].float()
        if self._params.top_p < 1:
            self._chunks.append(logits.clone())  # which ids are in the nucleus depends on all of them
        else:
            self._compete(logits, start)

    def drawn(self) -> tuple[Tensor, Tensor, list[OpeningScores]]:
        """The drawn tokens and their logits without noise; there are no openings."""
        if self._chunks:
            logits, params = torch.cat(self._chunks, -1), self._params
            within = nucleus(logits, params.temperature, params.top_p)
            self._compete(logits.masked_fill(~within, FORBIDDEN_LOGIT), 0)
        assert self._best is not None
        return *self._best[1:], []

    def _compete(self, logits: Tensor, start: int) -> None:
        noise = gumbel_noise(logits, self._params.generator)
        noisy, index = (logits / self._params.temperature + noise).max(-1)
        chunk = noisy, index + start, logits.gather(-1, index[:, None])[:, 0]
        if self._best is None:
            self._best = chunk
            return
        won = noisy > self._best[0]
        self._best = tuple(torch.where(won, a, b) for a, b in zip(chunk, self._best, strict=True))  # pyright: ignore
