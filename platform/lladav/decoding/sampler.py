"""Sampler: token, probability and entropy of each output position, in one pass over the vocabulary.

The LM head is applied in vocabulary chunks whose logits stay in the processor's cache. Each row keeps softmax
statistics of the chunks so far; logits of the whole vocabulary are held only for rows that sample within
limits (``top_k``, ``top_p``, ``min_p``) or follow an outline. The probability comes from the sum over the
*other* ids, which keeps near-certain rows in order: a plain float32 softmax rounds them all to 1.

Shapes: M rows (output positions), C ids of a vocabulary chunk, W width, K rows with guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lladav.decoding.constraints import OpeningScores, StepConstraint
from lladav.decoding.cpu_weights import Projection
from lladav.decoding.gumbel import drawable, gumbel_noise
from lladav.decoding.kernels.online_softmax import softmax_stats
from lladav.decoding.kernels.stats import SoftmaxStats, merge_stats, stack_stats
from lladav.decoding.logit_adjustments import FORBIDDEN_LOGIT, LogitAdjustments
from lladav.decoding.penalties import RepetitionPenalties
from lladav.decoding.structured_sampler import ConstrainedRows, StructuredDraw
from lladav.decoding.token_limits import NO_LIMITS, TokenLimits
from lladav.decoding.top_tokens import TopTokens


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are sampled, which has ``rows`` consecutive rows."""

    rows: int
    forbidden: tuple[int, ...] = ()
    temperature: float = 0.0
    limits: TokenLimits = NO_LIMITS
    generator: torch.Generator | None = None
    entropy: bool = False
    """Whether the unmasking rule needs the entropy."""
    suppressed: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Ids that a row, counted from the first row of the request, may not become."""
    constraint: StepConstraint | None = None
    """What an outline demands of the rows."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """What is added to the logits of ids."""
    penalties: RepetitionPenalties | None = None
    top_logprobs: int = 0
    """Number of the most probable tokens that are reported for each row."""


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
    top: TopTokens | None = None
    """The most probable tokens of rows of requests that ask for them."""


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
    adjustments, top = LogitAdjustments(params, hidden_MW.device), TopTokens(params, hidden_MW.device)
    stats, start = None, 0
    for chunk in head:
        logits_MC = _guided_logits(hidden_MW, chunk, guidance)
        adjustments.apply(logits_MC, start)
        for each in (*draws, top):
            each.add(logits_MC, start)
        stats = _added(stats, softmax_stats(logits_MC, with_entropy), start)  # overwrites the logits
        start += logits_MC.shape[-1]
    assert stats is not None
    return _output(stats, draws, top)


def _draws(params: Sequence[SamplingParams], device: torch.device) -> list[_GumbelMax | StructuredDraw]:
    """How the tokens of rows come about that are not simply the most probable ones."""
    draws: list[_GumbelMax | StructuredDraw] = []
    constrained = list[ConstrainedRows]()
    for each, rows in _with_slices(params):
        if each.constraint is not None:
            own = range(rows.start, rows.stop)
            constrained.append(
                ConstrainedRows(each.constraint, own, each.temperature, each.limits, each.generator)
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


def _added(stats: SoftmaxStats | None, chunk: SoftmaxStats, start: int) -> SoftmaxStats:
    """Statistics of the chunks so far and of one more chunk, which begins at id ``start``."""
    chunk = chunk._replace(argmax=chunk.argmax + start)
    if stats is None:
        return chunk
    return merge_stats(stack_stats((stats, chunk)))


def _output(
    stats: SoftmaxStats, draws: Sequence[_GumbelMax | StructuredDraw], top: TopTokens
) -> SamplerOutput:
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
    top.normalize(stats)
    return SamplerOutput(tokens_M, confidence_M, entropy_M, openings, top)


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
        if self._params.limits != NO_LIMITS:
            self._chunks.append(logits.clone())  # which ids may be drawn depends on all of them
        else:
            self._compete(logits, start)

    def drawn(self) -> tuple[Tensor, Tensor, list[OpeningScores]]:
        """The drawn tokens and their logits without noise; there are no openings."""
        if self._chunks:
            logits, params = torch.cat(self._chunks, -1), self._params
            within = drawable(logits, params.temperature, params.limits)
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
