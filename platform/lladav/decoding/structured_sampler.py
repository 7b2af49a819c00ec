"""Tokens of slots, and the probabilities of the openings of a choice, from the logits of a step.

While the vocabulary chunks pass by, the device finds the best score of each class of tokens. One copy brings
these to the host, where the automata find the most probable sequences. At a temperature above 0 the scores
are logits with Gumbel noise (perturb-and-MAP). They need all logits of a row if there are token limits.

Shapes: M rows of a step, C ids of a vocabulary chunk, V of the vocabulary, R rows of some slots, K classes of
their automaton, B chunks, P tokens of padding, O openings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from lladav.decoding.constraints import AnyOther, MaskedSlot, OpeningScores, StepConstraint
from lladav.decoding.gumbel import drawable, gumbel_noise
from lladav.decoding.kernels.class_maxima import ClassColumns
from lladav.decoding.token_limits import NO_LIMITS, TokenLimits
from lladav.structured.languages.automaton import PADDING, TokenAutomaton
from lladav.structured.outline import Slot

CACHED_AUTOMATA = 128
"""Automata whose tokens are kept on the device in the order of their classes, up to 2 MB each."""
OUTSIDE_LIMITS = 1e4
"""Taken off the logits of tokens outside the limits of a draw: they win only where no others are accepted."""


@dataclass(frozen=True)
class ConstrainedRows:
    """The rows of one request with a constraint, and how they are sampled."""

    constraint: StepConstraint
    rows: range
    temperature: float
    limits: TokenLimits
    generator: torch.Generator | None


class StructuredDraw:
    """Tokens of all slots of a step, and scores of all openings."""

    def __init__(self, requests: Sequence[ConstrainedRows], device: torch.device) -> None:
        cold = [each for each in requests if each.temperature == 0]
        warm = [each for each in requests if each.temperature > 0 and each.constraint.slots]
        self._slots: list[_SlotScores | _PerturbedSlots] = [
            *_SlotScores.by_automaton(cold, device),
            *(_PerturbedSlots(each, device) for each in warm),
        ]
        self._choices = [_Choice(each, device) for each in requests if each.constraint.openings]
        rows = [row for slots in self._slots for row in slots.rows]
        self.rows = torch.tensor(rows, dtype=torch.long, device=device)
        """Rows (M) of the slots' candidates, in the order in which ``drawn`` returns them."""

    def add(self, logits_MC: Tensor, start: int) -> None:
        """Add a chunk, which begins at id ``start``."""
        for each in (*self._slots, *self._choices):
            each.add(logits_MC, start)

    def drawn(self) -> tuple[Tensor, Tensor, list[OpeningScores]]:
        """Tokens of ``rows``, their logits, and the scores of the openings of each choice."""
        scores = [score for each in (*self._slots, *self._choices) for score in each.scores()]
        host = iter(_on_host(scores))
        drawn = [each.drawn(host) for each in self._slots]
        openings = [OpeningScores(*each.astype(np.float64)) for each in host]
        if not drawn:
            return self.rows, self.rows, openings
        tokens, logits = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return tokens, logits, openings


class _SlotScores:
    """Scores of the rows of slots with the same automaton."""

    def __init__(
        self, slots: Sequence[tuple[MaskedSlot, range]], padding: tuple[int, ...], device: torch.device
    ) -> None:
        """``slots`` come with the rows of their requests."""
        self.rows = [rows[row] for slot, rows in slots for row in slot.rows]
        self._slots = [slot for slot, _ in slots]
        self._classes = token_classes(self._slots[0].automaton, device)
        self._select = _row_index(self.rows, device)
        self._padding = padding
        self._padding_RP = torch.zeros((len(self.rows), len(padding)), device=device)
        self._chunks = list[_ScoredChunk]()

    @classmethod
    def by_automaton(cls, requests: Sequence[ConstrainedRows], device: torch.device) -> list[_SlotScores]:
        """The slots of all requests in groups."""
        groups: dict[TokenAutomaton, list[tuple[MaskedSlot, range]]] = {}
        for request in requests:
            for slot in request.constraint.slots:
                groups.setdefault(slot.automaton, []).append((slot, request.rows))
        return [cls(slots, requests[0].constraint.padding, device) for slots in groups.values()]

    def add(self, scores_MC: Tensor, start: int) -> None:
        """Add a chunk of the scores of all rows, which begins at id ``start``."""
        scores_RC = scores_MC[self._select]
        end = start + scores_RC.shape[1]
        columns = self._classes.columns(start, end)
        self._chunks.append(_ScoredChunk.of(columns, scores_RC, start))
        for index, token in enumerate(self._padding):
            if start <= token < end:
                self._padding_RP[:, index] = scores_RC[:, token - start]

    def scores(self) -> list[Tensor]:
        """Scores of classes (B, R, K) and of padding (R, P)."""
        return [torch.stack([each.maxima_RK for each in self._chunks]), self._padding_RP]

    def drawn(self, host: Iterator[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Tokens (R) of the most probable sequences and their scores, given the scores on the host."""
        # Logits that are not finite fail their request later; until then, scores must be finite.
        present_B1K = np.stack([each.columns.present_K for each in self._chunks])[:, None]
        maxima_BRK = np.where(present_B1K, np.nan_to_num(next(host)), -np.inf)
        padding_RP = np.nan_to_num(next(host))
        best_RK, best_padding_R = maxima_BRK.max(0), padding_RP.max(1)
        class_R = self._most_probable(best_RK, best_padding_R)
        is_padding_R = class_R == PADDING
        row_R = np.arange(len(class_R))
        scores_R = np.where(is_padding_R, best_padding_R, best_RK[row_R, class_R])
        chunk_R = np.where(is_padding_R, -1, maxima_BRK[:, row_R, class_R].argmax(0))
        token_R = torch.from_numpy(np.array(self._padding)[padding_RP.argmax(1)]).to(self._padding_RP.device)
        for index in np.unique(chunk_R[~is_padding_R]):
            (rows,) = np.nonzero(chunk_R == index)
            token_R[torch.from_numpy(rows).to(token_R.device)] = self._chunks[index].best(rows, class_R[rows])
        return token_R, torch.from_numpy(scores_R).to(token_R.device)

    def _most_probable(self, best_RK: np.ndarray, padding_R: np.ndarray) -> np.ndarray:
        """Class of each row (R)."""
        classes, first = list[np.ndarray](), 0
        for slot in self._slots:
            own = slice(first, first + len(slot.rows))
            classes.append(slot.most_probable(best_RK[own], padding_R[own], self._padding))
            first = own.stop
        return np.concatenate(classes)


@dataclass(frozen=True)
class _ScoredChunk:
    """A chunk of the scores, by class."""

    columns: ClassColumns
    scores_RL: Tensor
    maxima_RK: Tensor
    start: int

    @classmethod
    def of(cls, columns: ClassColumns, scores_RC: Tensor, start: int) -> _ScoredChunk:
        scores_RL = columns.gather(scores_RC)
        return cls(columns, scores_RL, columns.maxima(scores_RL), start)

    def best(self, rows: np.ndarray, classes: np.ndarray) -> Tensor:
        """The best token of a class in some rows."""
        index = torch.from_numpy(rows).to(self.scores_RL.device)
        return self.start + self.columns.best(self.scores_RL[index], classes)


class _KeptLogits:
    """Logits of the rows of one request, for the whole vocabulary."""

    def __init__(self, request: ConstrainedRows, device: torch.device) -> None:
        self._request, self._device = request, device
        self._chunks: list[Tensor] = []

    def add(self, logits_MC: Tensor, start: int) -> None:  # noqa: ARG002
        """Keep a chunk."""
        rows = self._request.rows
        self._chunks.append(logits_MC[rows.start : rows.stop].float().clone())


class _PerturbedSlots(_KeptLogits):
    """Scores of one request at a temperature. Its noise does not depend on the other rows of the step.

    Which tokens may be drawn depends on all logits.
    """

    def __init__(self, request: ConstrainedRows, device: torch.device) -> None:
        super().__init__(request, device)
        own = replace(request, rows=range(len(request.rows)))
        self._slots = _SlotScores.by_automaton([own], device)
        self._order = [row for slots in self._slots for row in slots.rows]

    @property
    def rows(self) -> list[int]:
        """Rows of the step."""
        return [self._request.rows[row] for row in self._order]

    def scores(self) -> list[Tensor]:
        """Scores of all slots."""
        start = 0
        for chunk in self._perturbed().split([each.shape[1] for each in self._chunks], 1):
            for slots in self._slots:
                slots.add(chunk, start)
            start += chunk.shape[1]
        return [score for slots in self._slots for score in slots.scores()]

    def drawn(self, host: Iterator[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Tokens (R) and their logits without noise."""
        tokens_R = torch.cat([slots.drawn(host)[0] for slots in self._slots])
        order_R = torch.tensor(self._order, device=self._device)
        return tokens_R, self._logits[order_R, tokens_R]

    def _perturbed(self) -> Tensor:
        request, logits = self._request, torch.cat(self._chunks, 1)
        self._logits = logits
        if request.limits != NO_LIMITS:
            logits = logits - OUTSIDE_LIMITS * ~drawable(logits, request.temperature, request.limits)
        return logits / request.temperature + gumbel_noise(logits, request.generator)


class _Choice(_KeptLogits):
    """Scores of one request that chooses between alternatives."""

    def scores(self) -> list[Tensor]:
        """Log-probability and noise of each opening (2, O)."""
        scores_O = self._log_probabilities()
        noise_O = torch.zeros_like(scores_O)
        if self._request.temperature > 0:
            noise_O = gumbel_noise(scores_O, self._request.generator)
        return [torch.stack((scores_O, noise_O))]

    def _log_probabilities(self) -> Tensor:
        openings = self._request.constraint.openings
        log_probability_RV = torch.cat(self._chunks, 1).log_softmax(-1)
        row_O = torch.tensor([each.row for each in openings], device=self._device)
        # All fixed tokens at once: a choice may have hundreds.
        token_O = [each.element if isinstance(each.element, int) else 0 for each in openings]
        scores_O = log_probability_RV[row_O, torch.tensor(token_O, device=self._device)]
        for index, each in enumerate(openings):
            if not isinstance(each.element, int):
                tokens = self._tokens(each.element)
                scores_O[index] = log_probability_RV[each.row, tokens].logsumexp(-1)
        return scores_O

    def _tokens(self, element: Slot | AnyOther | None) -> Tensor:
        """The tokens with which a slot may begin, all but one, or those behind an answer."""
        if isinstance(element, AnyOther):
            vocabulary = sum(each.shape[1] for each in self._chunks)
            return torch.arange(vocabulary, device=self._device) != element.token
        padding = torch.tensor(self._request.constraint.padding, device=self._device)
        if element is None:
            return padding
        automaton = element.automaton
        tokens = token_classes(automaton, self._device).opening
        return torch.cat((tokens, padding)) if automaton.accepting_S[automaton.start] else tokens


class TokenClasses:
    """The tokens of an automaton on a device, in the order of their classes."""

    def __init__(self, automaton: TokenAutomaton, device: torch.device) -> None:
        self._automaton, self._device = automaton, device
        self._chunks: dict[tuple[int, int], ClassColumns] = {}

    def columns(self, start: int, end: int) -> ClassColumns:
        """The columns of a vocabulary chunk."""
        if (chunk := self._chunks.get((start, end))) is None:
            class_C, num_classes = self._automaton.class_of_V[start:end], self._automaton.num_classes
            chunk = self._chunks[start, end] = ClassColumns.of(class_C, num_classes, self._device)
        return chunk

    @cached_property
    def opening(self) -> Tensor:
        """The tokens with which a value may begin that is not empty."""
        automaton = self._automaton
        classes = automaton.classes_E[automaton.sources_E == automaton.start]
        (tokens,) = np.nonzero(np.isin(automaton.class_of_V, classes))
        return torch.from_numpy(tokens).to(self._device)


@lru_cache(CACHED_AUTOMATA)
def token_classes(automaton: TokenAutomaton, device: torch.device) -> TokenClasses:
    """The tokens of an automaton; they are cached, because sorting takes milliseconds."""
    return TokenClasses(automaton, device)


def _row_index(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """An index of rows, which copies nothing if they are adjacent."""
    adjacent = range(rows[0], rows[0] + len(rows))
    return (
        slice(adjacent.start, adjacent.stop) if list(adjacent) == rows else torch.tensor(rows, device=device)
    )


def _on_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copies of tensors on the host, in one transfer."""
    flat = torch.cat([each.flatten() for each in tensors]).cpu()
    return [
        part.view(each.shape).numpy()
        for each, part in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True)
    ]
