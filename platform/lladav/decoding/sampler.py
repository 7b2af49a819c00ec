"""What each masked position would become: token, confidence and entropy, in one pass over the vocabulary.

The vocabulary passes by in pieces that stay in the processor's cache. What is kept of them per row is the
greatest logit, its id, and two sums; logits of all ids are held for rows alone that sample from a nucleus.
The share of the other ids is summed apart from the greatest one's, which keeps the order of near-certain
rows: a plain float32 softmax calls them all 1.

Shapes: M rows, V vocabulary, C a piece of it, W width, K rows that are guided, A rows with a set of allowed
ids, N ids in those sets together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.cpu_weights import Product
from lladav.decoding.kernels.online_softmax import summarize

NEVER = -1e30
"""Logit of a forbidden id; finite, so that products with its zero probability are zero."""
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Draw:
    """How the tokens of so many rows, one request's, are chosen."""

    rows: int
    forbidden: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    entropy: bool = False
    """Whether anybody asks for the entropy."""
    allowed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """The only ids that some of its rows, counted from its first, may become; ``forbidden`` is not asked
    there."""


@dataclass(frozen=True)
class Guided:
    """Rows (K) that are moved ``scale_K`` times away from what hidden states without the prompt would say."""

    rows_K: Tensor
    blind_KW: Tensor
    scale_K: Tensor


@dataclass(frozen=True)
class Proposals:
    """Token (M), its probability (M, float64) and, where a draw asks for it, the entropy of its position (M,
    float64, nats). The probability is NaN where logits are not finite.
    """

    tokens_M: Tensor
    confidence_M: Tensor
    entropy_M: Tensor | None


def propose(
    hidden_MW: Tensor, head: Sequence[Product], draws: Sequence[Draw], guided: Guided | None = None
) -> Proposals:
    """The proposals of all rows by a head in pieces; ``draws`` cover the rows in order."""
    if sum(draw.rows for draw in draws) != len(hidden_MW):
        raise ValueError("draws do not cover the rows")
    state = _State(len(hidden_MW), hidden_MW.device, any(draw.entropy for draw in draws))
    samplers = [_Sampler(draw, rows) for draw, rows in _with_slices(draws) if draw.temperature > 0]
    allowed = _Allowed.of(draws, hidden_MW.device)
    start = 0
    for piece in head:
        logits_MC = _logits(hidden_MW, piece, guided)
        own = None if allowed is None else allowed.within(logits_MC, start)
        _forbid(logits_MC, start, draws)
        if allowed is not None and own is not None:
            allowed.leave(logits_MC, own)
        for sampler in samplers:
            sampler.take(logits_MC, start)
        state.take_over(logits_MC, start)
        start += logits_MC.shape[-1]
    for sampler in samplers:
        state.replace(sampler.rows, *sampler.drawn())
    return state.proposals()


def _logits(hidden_MW: Tensor, piece: Product, guided: Guided | None) -> Tensor:
    logits_MC = piece(hidden_MW)
    if guided is not None:
        logits_MC = logits_MC.float()
        blind_KC = piece(guided.blind_KW).float()
        sighted_KC = logits_MC[guided.rows_K]
        logits_MC[guided.rows_K] = sighted_KC + guided.scale_K[:, None] * (sighted_KC - blind_KC)
    return logits_MC


def _with_slices(draws: Sequence[Draw]) -> Iterator[tuple[Draw, slice]]:
    start = 0
    for draw in draws:
        yield draw, slice(start, start + draw.rows)
        start += draw.rows


def _forbid(logits_MC: Tensor, start: int, draws: Sequence[Draw]) -> None:
    for draw, rows in _with_slices(draws):
        within = [i - start for i in draw.forbidden if start <= i < start + logits_MC.shape[-1]]
        if within:
            logits_MC[rows, within] = NEVER


class _Own(NamedTuple):
    """Logits of a piece at rows and columns that are allowed there."""

    rows_N: Tensor
    columns_N: Tensor
    logits_N: Tensor


class _Allowed:
    """Rows that may become few ids alone, and those ids in ascending order, so that each piece finds its own
    without asking the device.
    """

    def __init__(
        self, rows_A: np.ndarray, rows_N: np.ndarray, ids_N: np.ndarray, device: torch.device
    ) -> None:
        order = np.argsort(ids_N, kind="stable")
        self._ascending_N = ids_N[order]
        self._rows_A, self._rows_N, self._ids_N = (
            torch.from_numpy(each).to(device) for each in (rows_A, rows_N[order], self._ascending_N)
        )

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> _Allowed | None:
        """The sets of all draws; none where nobody has any."""
        sets = {
            rows.start + row: ids for draw, rows in _with_slices(draws) for row, ids in draw.allowed.items()
        }
        if not sets:
            return None
        rows_A = np.fromiter(sets, np.int64)
        return cls(
            rows_A,
            rows_A.repeat([len(ids) for ids in sets.values()]),
            np.fromiter(chain.from_iterable(sets.values()), np.int64),
            device,
        )

    def within(self, logits_MC: Tensor, start: int) -> _Own:
        """The allowed logits of a piece, to be read before forbidden ids are struck out."""
        first, end = np.searchsorted(self._ascending_N, (start, start + logits_MC.shape[-1])).tolist()
        rows_N, columns_N = self._rows_N[first:end], self._ids_N[first:end] - start
        return _Own(rows_N, columns_N, logits_MC[rows_N, columns_N])

    def leave(self, logits_MC: Tensor, own: _Own) -> None:
        """Strike out everything else at the rows."""
        logits_MC[self._rows_A] = NEVER
        logits_MC[own.rows_N, own.columns_N] = own.logits_N


class _State:
    """Of the pieces so far and per row: the greatest logit and its id, and sums over the other ids, of
    e^(x - greatest) and, for the entropy, of (x - greatest) e^(x - greatest).
    """

    def __init__(self, rows: int, device: torch.device, entropy: bool) -> None:
        self._greatest_M = torch.full((rows,), 2 * NEVER, device=device)
        self._token_M = torch.zeros(rows, dtype=torch.long, device=device)
        self._others_M = torch.zeros(rows, device=device)
        self._finite_M = torch.ones(rows, dtype=torch.bool, device=device)
        self._moment_M = torch.zeros(rows, device=device) if entropy else None
        self._chosen: list[tuple[slice, Tensor, Tensor]] = []

    def take_over(self, logits_MC: Tensor, start: int) -> None:
        """Add a piece, whose logits are overwritten."""
        self._merge(start, *summarize(logits_MC, self._moment_M is not None))

    def _merge(
        self,
        start: int,
        greatest_M: Tensor,
        place_M: Tensor,
        others_M: Tensor,
        moment_M: Tensor | None,
        finite_M: Tensor,
    ) -> None:
        """The sums of the lesser of two greatest logits are moved to the greater one."""
        self._finite_M &= finite_M
        won_M = greatest_M > self._greatest_M
        gap_M = (greatest_M - self._greatest_M).abs()
        shrink_M = (-gap_M).exp()
        mass_M = 1 + torch.where(won_M, self._others_M, others_M)
        self._others_M = torch.where(won_M, others_M, self._others_M) + shrink_M * mass_M
        if moment_M is not None and self._moment_M is not None:
            of_winner_M, of_loser_M = (
                torch.where(won_M, *pair) for pair in ((moment_M, self._moment_M), (self._moment_M, moment_M))
            )
            moved_M = shrink_M * (of_loser_M - gap_M * mass_M)
            self._moment_M = of_winner_M + torch.where(shrink_M > 0, moved_M, 0.0)
        self._token_M = torch.where(won_M, place_M + start, self._token_M)
        self._greatest_M = torch.where(won_M, greatest_M, self._greatest_M)

    def replace(self, rows: slice, tokens: Tensor, logits: Tensor) -> None:
        """Other tokens than the greatest, and their logits, for some rows."""
        self._chosen.append((rows, tokens, logits))

    def proposals(self) -> Proposals:
        others_M = self._others_M.double()
        tokens_M = self._token_M.clone()
        confidence_M = (1 / (1 + others_M)).where(self._finite_M, torch.nan)
        for rows, tokens, logits in self._chosen:
            lower = (logits.double() - self._greatest_M[rows].double()).exp()
            confidence_M[rows] *= torch.where(tokens == tokens_M[rows], 1.0, lower)
            tokens_M[rows] = tokens
        if self._moment_M is None:
            return Proposals(tokens_M, confidence_M, None)
        entropy_M = others_M.log1p() - self._moment_M.double() / (1 + others_M)
        return Proposals(tokens_M, confidence_M, entropy_M)


class _Sampler:
    """Draws of one request by Gumbel-max; its noise follows from its generator alone, not from the batch."""

    def __init__(self, draw: Draw, rows: slice) -> None:
        self.rows = rows
        self._draw = draw
        self._kept: list[Tensor] = []
        self._best: tuple[Tensor, Tensor, Tensor] | None = None

    def take(self, logits_MC: Tensor, start: int) -> None:
        logits = logits_MC[self.rows].float()
        if self._draw.top_p < 1:
            self._kept.append(logits.clone())
        else:
            self._compete(logits, start)

    def drawn(self) -> tuple[Tensor, Tensor]:
        """The tokens and their logits without noise."""
        if self._kept:
            logits = torch.cat(self._kept, -1)
            self._compete(logits.masked_fill(~self._nucleus(logits), NEVER), 0)
        assert self._best is not None
        return self._best[1:]

    def _compete(self, logits: Tensor, start: int) -> None:
        exponential = torch.empty_like(logits).exponential_(generator=self._draw.generator)
        noisy, places = (logits / self._draw.temperature - exponential.clamp_min(TINY).log()).max(-1)
        own = logits.gather(-1, places[:, None])[:, 0]
        if self._best is None:
            self._best = noisy, places + start, own
            return
        won = noisy > self._best[0]
        new = noisy, places + start, own
        self._best = tuple(torch.where(won, a, b) for a, b in zip(new, self._best, strict=True))  # pyright: ignore

    def _nucleus(self, logits: Tensor) -> Tensor:
        """The most probable ids that hold ``top_p`` of the probability, the one that crosses it included."""
        ordered, order = (logits / self._draw.temperature).softmax(-1).sort(-1, descending=True)
        within = ordered.cumsum(-1) - ordered < self._draw.top_p
        return torch.zeros_like(within).scatter_(-1, order, within)
