"""The answer of one request while it is decoded: bookkeeping on the host, without torch.

``SequenceState`` is what the engine sees. ``DenoisingSequence`` is the answer of a masked-diffusion model,
``AutoregressiveSequence`` that of a model that predicts the next token; the model decides which. An answer
that follows an outline is a ``StructuredSequence``, in a module of its own.

Sequence positions count from the beginning of the prompt: the prompt, then the canvas of ``max_tokens``
tokens, then the fixed suffix. Canvas positions count from the beginning of the canvas. A step forwards a
*span* of the sequence. A *refresh* forwards all positions and writes all their keys and values to the KV
cache. A *cached* step forwards the positions that may have changed since and reuses the cached keys and
values of the others, although they may be stale.

Shapes: G canvas positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lladav.decoding.constraints import OpeningScores, StepConstraint
from lladav.decoding.ngrams import repeating_tokens
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.penalties import RepetitionPenalties
from lladav.decoding.stops import AnswerEnd, find_stop, partial_stop_length
from lladav.decoding.unmasking import QUOTA, RowRule

RankedTokens: TypeAlias = list[tuple[int, float]]
"""Tokens and their log-probabilities, the most probable first."""
UNWRITTEN = -1
"""Token of the canvas positions that an autoregressive model has not reached; no id of a vocabulary."""


@dataclass(frozen=True)
class Span:
    """Sequence positions from ``start`` up to ``end`` that a step forwards; a refresh forwards all."""

    start: int
    end: int
    refresh: bool

    def __len__(self) -> int:
        return self.end - self.start


class SequenceState(ABC):
    """Tokens of the answer, its end, and what the next step forwards and predicts."""

    def __init__(self, prompt: int, options: DecodingOptions, blank: int) -> None:
        """``prompt`` is the number of prompt positions, ``blank`` the token of an empty canvas."""
        self.options = options
        self.prompt = prompt
        self.blank = blank
        self.tokens_G = np.full(options.max_tokens, blank, np.int64)
        self.confidence_G = np.ones(options.max_tokens, np.float64)
        self.top: dict[int, RankedTokens] = {}
        """The most probable tokens by canvas position, when it was unmasked, if they are asked for."""
        self.end, self.excess = options.max_tokens, 0
        self.forwards = self.refreshes = self.positions = 0

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no token before the end of the answer can change any more."""

    @property
    @abstractmethod
    def span(self) -> Span:
        """What the next step forwards."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions of the sequence that the next step attends to."""

    @property
    @abstractmethod
    def candidates(self) -> np.ndarray:
        """Canvas positions that the next step may unmask."""

    @property
    @abstractmethod
    def outputs(self) -> np.ndarray:
        """Sequence positions whose hidden states predict the candidates."""

    @property
    @abstractmethod
    def rule(self) -> RowRule:
        """How many candidates the next step unmasks."""

    @property
    @abstractmethod
    def fillable_G(self) -> np.ndarray:
        """Whether a later step may write a canvas position."""

    @abstractmethod
    def _advance(self) -> None:
        """Advance to the next step after new tokens have been written."""

    @property
    def constraint(self) -> StepConstraint | None:
        """What an outline demands of the next step."""
        return None

    @property
    def choosing(self) -> bool:
        """Whether the next step chooses between alternatives of an outline and unmasks nothing."""
        return False

    @property
    def follows_outline(self) -> bool:
        """Whether the answer follows an outline."""
        return False

    @property
    def stopped(self) -> bool:
        """Whether the answer has ended; otherwise it fills its canvas."""
        return self.end < self.options.max_tokens or self.excess > 0

    @property
    def answer(self) -> list[int]:
        """The tokens before the stop, then the suffix."""
        return [*self.tokens_G[: self.end].tolist(), *self.options.suffix]

    @property
    def suppressed(self) -> dict[int, list[int]]:
        """Tokens that a candidate may not become in the next step: they repeat an n-gram of the answer."""
        return self._repeating(self.tokens_G, self.candidates.tolist())

    @property
    def penalties(self) -> RepetitionPenalties | None:
        """Penalties of the tokens that the answer has so far; None if the request has none."""
        own, tokens = self.options, self.tokens_G[: self.end]
        return RepetitionPenalties.of(
            tokens[tokens != self.blank], own.repetition_penalty, own.frequency_penalty, own.presence_penalty
        )

    def writable(
        self, positions: Sequence[int], tokens: Sequence[int], confidences: Sequence[float]
    ) -> list[int]:
        """Indices of the tokens that a step may write, among those that it sampled side by side.

        A token that would repeat an n-gram together with more confident ones is left to a later step. The
        most confident token is always written.
        """
        if self.options.no_repeat_ngram is None:
            return list(range(len(positions)))
        canvas_G, written = self.tokens_G.copy(), list[int]()
        for index in sorted(range(len(positions)), key=lambda index: -confidences[index]):
            position, token = positions[index], tokens[index]
            if not written or token not in self._repeating(canvas_G, [position]).get(position, []):
                canvas_G[position] = token
                written.append(index)
        return sorted(written)

    def _repeating(self, tokens_G: np.ndarray, candidates: Sequence[int]) -> dict[int, list[int]]:
        """Tokens that would repeat an n-gram before the end of a canvas, for each of the candidates."""
        if (size := self.options.no_repeat_ngram) is None:
            return {}
        tokens = tokens_G[: self.end]
        return repeating_tokens(tokens, tokens != self.blank, set(candidates), size)

    @property
    def committed(self) -> int:
        """Number of leading tokens of the answer that are final: no later step or stop changes them.

        A token that belongs to a stop in part is not counted: ``excess`` tells how many bytes to cut off.
        """
        fillable = np.flatnonzero(self.fillable_G[: self.end])
        written = int(fillable[0]) if len(fillable) else self.end
        if written == self.end and (self.done or self.end < self.options.max_tokens):
            return written - (self.excess > 0)
        # The last written tokens may turn out to be the beginning of a stop.
        tokens = self.tokens_G[:written]
        held = [partial_stop_length(tokens, self.options.stop)]
        if self.options.stop_texts is not None:
            held.append(self.options.stop_texts.partial_length(tokens.tolist()))
        return written - max(held)

    def choose(self, span: Span, scores: OpeningScores) -> SequenceState:
        """Choose by the scores of a step over ``span``, advance a step, and return the state that follows."""
        raise NotImplementedError

    def take_fixed(self) -> list[tuple[int, int, float]]:
        """Position, token and confidence of tokens that an outline has fixed since the last call."""
        return []

    def fill(
        self, span: Span, positions: Sequence[int], tokens: Sequence[int], confidences: Sequence[float]
    ) -> None:
        """Write the tokens that a step over ``span`` unmasked, look for stops, and advance a step."""
        self.tokens_G[list(positions)] = tokens
        self.confidence_G[list(positions)] = confidences
        self._count(span)
        self._advance()

    def _count(self, span: Span) -> None:
        self.forwards += 1
        self.refreshes += span.refresh
        self.positions += len(span)

    def _find_stop(self) -> None:
        """Set the end to the earliest stop; a stop found in a later step may begin earlier and overlap."""
        by_ids = find_stop(self.tokens_G, self.options.stop)
        ends = [AnswerEnd(self.end, self.excess), by_ids]
        if self.options.stop_texts is not None:
            last = by_ids.tokens if by_ids else len(self.tokens_G)
            ends.append(self.options.stop_texts.find(self.tokens_G[:last], self.fillable_G[:last]))
        first = min((end for end in ends if end), key=lambda end: (end.tokens, -end.excess))
        self.end, self.excess = first.tokens, first.excess


class DenoisingSequence(SequenceState):
    """An answer that is unmasked block by block, and the block and step that decoding has reached."""

    def __init__(
        self, prompt: int, options: DecodingOptions, mask_id: int, not_first: int | None = None
    ) -> None:
        """``not_first`` is a token with which the answer does not begin."""
        super().__init__(prompt, options, mask_id)
        self._not_first = not_first
        for position, token in options.infill.items():
            self.tokens_G[position] = token
        self.block = self.step = 0
        self._steps_per_block = options.steps_per_block
        self._find_stop()
        self._skip_full_blocks()

    @property
    def done(self) -> bool:
        """Whether no block before the end of the answer is left."""
        return self.block * self.options.positions_per_block >= self.end

    @property
    def span(self) -> Span:
        options = self.options
        interval = options.refresh_interval or self._steps_per_block
        if options.cache is Cache.none or self.step % interval == 0:
            return Span(0, self.length, True)
        start = self.prompt + self.block * options.positions_per_block
        end = start + options.positions_per_block if options.cache is Cache.dual else self.length
        return Span(start, end, False)

    @property
    def length(self) -> int:
        """Positions of the sequence: prompt, canvas and suffix."""
        return self.prompt + self.options.answer_positions

    @property
    def candidates(self) -> np.ndarray:
        """Masks of the block, before the answer's end."""
        start = self.block * self.options.positions_per_block
        end = min(start + self.options.positions_per_block, self.end)
        return start + np.flatnonzero(self.tokens_G[start:end] == self.blank)

    @property
    def outputs(self) -> np.ndarray:
        return self.prompt + self.candidates

    @property
    def suppressed(self) -> dict[int, list[int]]:
        suppressed = super().suppressed
        if self._not_first is not None and self.fillable_G[0]:
            suppressed[0] = [*suppressed.get(0, []), self._not_first]
        return suppressed

    @property
    def rule(self) -> RowRule:
        masks = int(np.count_nonzero(self.tokens_G == self.blank))
        return self.options.row_rule(self.step, masks)

    @property
    def fillable_G(self) -> np.ndarray:
        """Masks that may still be filled. Those that are left in an earlier block stay masks."""
        fillable_G = self.tokens_G == self.blank
        fillable_G[: self.block * self.options.positions_per_block] = False
        return fillable_G

    def _advance(self) -> None:
        self.step += 1
        if self.step >= self._steps_per_block:
            self.block, self.step = self.block + 1, 0
        self._find_stop()
        self._skip_full_blocks()

    def _skip_full_blocks(self) -> None:
        while not self.done and len(self.candidates) == 0:
            self.block, self.step = self.block + 1, 0


class AutoregressiveSequence(SequenceState):
    """An answer that is written from left to right, a token per step.

    The first step, a refresh, forwards the prompt. Each later step forwards the newest token and attends to
    the cached keys and values of all positions before it, which are exact under causal attention.
    """

    def __init__(self, prompt: int, options: DecodingOptions) -> None:
        super().__init__(prompt, options, UNWRITTEN)

    @property
    def done(self) -> bool:
        """Whether the answer is written up to its end."""
        return self.forwards >= self.end

    @property
    def span(self) -> Span:
        if self.forwards == 0:
            return Span(0, self.prompt, True)
        return Span(self.length - 1, self.length, False)

    @property
    def length(self) -> int:
        """Positions of the prompt and of the tokens so far."""
        return self.prompt + self.forwards

    @property
    def candidates(self) -> np.ndarray:
        """The next canvas position: each step writes one token."""
        return np.array([self.forwards])

    @property
    def outputs(self) -> np.ndarray:
        """The last position so far: a hidden state predicts the token after its own."""
        return np.array([self.length - 1])

    @property
    def rule(self) -> RowRule:
        return RowRule(QUOTA, 1, masks=1)

    @property
    def fillable_G(self) -> np.ndarray:
        return self.tokens_G == self.blank

    def _advance(self) -> None:
        self._find_stop()
