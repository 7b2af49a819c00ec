"""Tokens of slots, and the probabilities of the openings of a choice, from the logits of a step.

The logits of rows with a constraint are held for the whole vocabulary. The device finds the best score of
each class of tokens, one copy brings these to the host, and the automata find the most probable sequences
there. At a temperature above 0 the scores are perturbed by Gumbel noise first (perturb-and-MAP).

Shapes: M rows of a step, K of them that have a constraint, V ids of the vocabulary, C of a chunk, R rows of
a group, L tokens that its automaton accepts, O openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.constraints import Element, MaskedSlot, OpeningScores, StepConstraint
from lladav.decoding.gumbel import gumbel_noise, nucleus
from lladav.decoding.kernels.class_maxima import ClassBounds, best_columns, class_maxima
from lladav.structured.languages.automaton import PADDING, TokenAutomaton

CACHED_AUTOMATA = 256
OUTSIDE_NUCLEUS = 1e4
"""Taken off the logits of tokens outside the nucleus: they win only where the automaton accepts no others."""


@dataclass(frozen=True)
class ConstrainedRows:
    """The rows of one request with a constraint, and how they are sampled."""

    constraint: StepConstraint
    rows: range
    temperature: float
    top_p: float
    generator: torch.Generator | None


@dataclass(frozen=True)
class TokenClasses:
    """The tokens that an automaton accepts (L), in the order of their classes."""

    tokens_L: Tensor
    bounds: ClassBounds
    opening_L: Tensor
    """Tokens with which a value may begin."""
    may_be_empty: bool


@lru_cache(CACHED_AUTOMATA)
def token_classes(automaton: TokenAutomaton, device: torch.device) -> TokenClasses:
    """The classes of an automaton on a device; they are cached, because sorting takes milliseconds."""
    (accepted_L,) = np.nonzero(automaton.class_of_V)
    classes_L = automaton.class_of_V[accepted_L]
    order_L = np.argsort(classes_L, kind="stable")
    edges = np.searchsorted(classes_L[order_L], np.arange(automaton.num_classes + 1))
    first_classes = automaton.classes_E[automaton.sources_E == automaton.start]
    (opening_L,) = np.nonzero(np.isin(automaton.class_of_V, first_classes))
    return TokenClasses(
        torch.from_numpy(accepted_L[order_L]).to(device),
        ClassBounds(edges[:-1], edges[1:]),
        torch.from_numpy(opening_L).to(device),
        bool(automaton.accepting_S[automaton.start]),
    )


class StructuredDraw:
    """Tokens of all slots of a step, and scores of all openings."""

    def __init__(self, requests: Sequence[ConstrainedRows], num_chunks: int, device: torch.device) -> None:
        """``num_chunks`` is the number of vocabulary chunks that follow."""
        self._groups = _groups(requests, device)
        self._slots = [each for each in requests if each.constraint.slots]
        self._choices = [each for each in requests if each.constraint.openings]
        slot_rows = [row for group in self._groups for row in group.rows]
        kept = [*slot_rows, *(row for each in self._choices for row in each.rows)]
        self.rows = torch.tensor(slot_rows, dtype=torch.long, device=device)
        """Rows (M) of the slots' candidates, in the order in which ``drawn`` returns them."""
        self._kept_K = torch.tensor(kept, device=device)
        self._index = {row: index for index, row in enumerate(kept)}
        self._num_chunks, self._end = num_chunks, 0
        self._buffer = torch.empty(0)

    def add(self, logits_MC: Tensor, start: int) -> None:
        """Add a chunk, which begins at id ``start``."""
        width = logits_MC.shape[-1]
        if start == 0:  # no chunk is wider than the first
            shape = len(self._kept_K), self._num_chunks * width
            self._buffer = torch.empty(shape, device=logits_MC.device)
        self._end = start + width
        self._buffer[:, start : self._end] = logits_MC[self._kept_K]

    def drawn(self) -> tuple[Tensor, Tensor, list[OpeningScores]]:
        """Tokens of ``rows``, their logits, and the scores of the openings of each choice."""
        logits_KV = self._buffer[:, : self._end]
        scores_KV = self._perturbed(logits_KV)
        scored = [group.score(scores_KV) for group in self._groups]
        openings = [self._score_openings(each, logits_KV) for each in self._choices]
        values = iter(_on_host([*(each for one in scored for each in one.maxima), *openings]))
        # Values of rows with logits that are not finite mean nothing; their request fails.
        tokens = [each.tokens(np.nan_to_num(next(values)), np.nan_to_num(next(values))) for each in scored]
        tokens_R = torch.cat([self.rows[:0], *tokens])
        logits_R = logits_KV[: len(tokens_R)].gather(-1, tokens_R[:, None])[:, 0]
        return tokens_R, logits_R, [OpeningScores(*each.astype(np.float64)) for each in values]

    def _perturbed(self, logits_KV: Tensor) -> Tensor:
        """The scores of all tokens: the logits, with noise for requests at a temperature."""
        warm = [each for each in self._slots if each.temperature > 0]
        scores_KV = logits_KV.clone() if warm else logits_KV
        for each in warm:
            # The noise of a request is drawn row by row of its own, whatever else the step runs.
            index = self._kept_index(each.rows)
            logits = logits_KV[index]
            if each.top_p < 1:
                logits -= OUTSIDE_NUCLEUS * ~nucleus(logits, each.temperature, each.top_p)
            scores_KV[index] = logits / each.temperature + gumbel_noise(logits, each.generator)
        return scores_KV

    def _score_openings(self, request: ConstrainedRows, logits_KV: Tensor) -> Tensor:
        """Log-probability and noise of each opening (2, O)."""
        constraint = request.constraint
        rows = self._kept_index(request.rows)
        log_probability_RV = logits_KV[rows].log_softmax(-1)
        scores = torch.stack(
            [
                log_probability_RV[each.row][
                    _opening_tokens(each.element, constraint.padding, rows.device)
                ].logsumexp(-1)
                for each in constraint.openings
            ]
        )
        noise = gumbel_noise(scores, request.generator) if request.temperature > 0 else scores.new_zeros(())
        return torch.stack((scores, noise.expand_as(scores)))

    def _kept_index(self, rows: range) -> Tensor:
        return torch.tensor([self._index[row] for row in rows], device=self._kept_K.device)


def _opening_tokens(element: Element, padding: tuple[int, ...], device: torch.device) -> Tensor:
    """The tokens with which an element may begin."""
    if isinstance(element, int):
        return torch.tensor([element], device=device)
    padding_tokens = torch.tensor(padding, device=device)
    if element is None:
        return padding_tokens
    classes = token_classes(element.automaton, device)
    return torch.cat((classes.opening_L, padding_tokens)) if classes.may_be_empty else classes.opening_L


@dataclass(frozen=True)
class _Group:
    """Slots of a step with the same automaton; their rows are adjacent among those kept."""

    classes: TokenClasses
    padding: Tensor
    slots: Sequence[tuple[ConstrainedRows, MaskedSlot]]
    first: int
    """Index of the first row among those kept."""

    @property
    def rows(self) -> list[int]:
        """Rows of the step."""
        return [request.rows[row] for request, slot in self.slots for row in slot.rows]

    def score(self, scores_KV: Tensor) -> _ScoredGroup:
        """The scores of the classes of all rows."""
        scores_RV = scores_KV[self.first : self.first + len(self.rows)]
        scores_RL = scores_RV.index_select(1, self.classes.tokens_L)
        padding_R, token_R = scores_RV[:, self.padding].max(-1)
        maxima = class_maxima(scores_RL, self.classes.bounds), padding_R
        return _ScoredGroup(self, scores_RL, maxima, self.padding[token_R])


@dataclass(frozen=True)
class _ScoredGroup:
    """Scores of a group's tokens and of its classes (R, K) and padding (R)."""

    group: _Group
    scores_RL: Tensor
    maxima: tuple[Tensor, Tensor]
    padding_R: Tensor
    """The better token of padding."""

    def tokens(self, best_RK: np.ndarray, padding_R: np.ndarray) -> Tensor:
        """The tokens of the most probable sequences (R), given the maxima on the host."""
        classes, padding = self.group.classes, tuple(self.group.padding.tolist())
        best_RK[:, ~classes.bounds.present_K] = -np.inf
        chosen, row = list[np.ndarray](), 0
        for _, slot in self.group.slots:
            rows = slice(row, row + len(slot.positions_R))
            chosen.append(slot.most_probable(best_RK[rows], padding_R[rows], padding))
            row = rows.stop
        class_R = np.concatenate(chosen)
        first_R, end_R = (np.where(class_R == PADDING, 0, each[class_R]) for each in classes.bounds.columns)
        is_padding_R = torch.from_numpy(class_R == PADDING).to(self.padding_R.device)
        token_R = classes.tokens_L[best_columns(self.scores_RL, first_R, end_R)]
        return self.padding_R.where(is_padding_R, token_R)


def _groups(requests: Sequence[ConstrainedRows], device: torch.device) -> list[_Group]:
    by_automaton: dict[TokenAutomaton, list[tuple[ConstrainedRows, MaskedSlot]]] = {}
    for request in requests:
        for slot in request.constraint.slots:
            by_automaton.setdefault(slot.automaton, []).append((request, slot))
    groups, first = list[_Group](), 0
    for automaton, slots in by_automaton.items():
        padding = torch.tensor(slots[0][0].constraint.padding, device=device)
        groups.append(_Group(token_classes(automaton, device), padding, slots, first))
        first += len(groups[-1].rows)
    return groups


def _on_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copies of tensors on the host, in one transfer."""
    flat = torch.cat([each.flatten() for each in tensors]).cpu()
    return [
        part.view(each.shape).numpy()
        for each, part in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True)
    ]
