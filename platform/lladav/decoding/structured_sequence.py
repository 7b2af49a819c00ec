"""The answer of a masked-diffusion model that follows an outline.

The canvas grows as the outline is laid out. Decoding goes segment by segment: the masks of all slots before
the next choice are filled, then a *choice step* compares the alternatives. It is a refresh, and behind the
canvas so far it sees a window of masks, in which it compares how alternatives continue. Everything before a
segment is final.
"""

from __future__ import annotations

import numpy as np

from lladav.config.schema import TokenIds
from lladav.decoding.constraints import (
    Element,
    MaskedSlot,
    Opening,
    OpeningScores,
    StepConstraint,
    drawn_opening,
)
from lladav.decoding.outline_canvas import Fork, OutlineCanvas
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.sequence import SequenceState, Span
from lladav.decoding.unmasking import RowRule

CHOICE_WINDOW = 16
"""Masks behind the canvas at a choice step; choices that are further apart take a step each."""


class StructuredSequence(SequenceState):
    """An outline on its canvas, and the block and step that decoding has reached."""

    def __init__(self, prompt: int, options: DecodingOptions, ids: TokenIds) -> None:
        super().__init__(prompt, options, ids.mask_id)
        assert options.outline is not None
        self._padding = tuple(dict.fromkeys((ids.eot, ids.eos)))
        self._canvas = OutlineCanvas(options.outline, self.tokens_G, self.blank, self._padding)
        self._openings: dict[Opening, int] = {}
        self._reported = 0
        self.step = 0
        """Steps since the last choice step or the beginning of the block."""
        self._lay_out()
        self._begin_block()

    @property
    def done(self) -> bool:
        return self._canvas.complete

    @property
    def follows_outline(self) -> bool:
        return True

    @property
    def stopped(self) -> bool:
        """An outline always ends."""
        return True

    @property
    def choosing(self) -> bool:
        """Whether the next step compares alternatives."""
        return not self.done and len(self._canvas.masks) == 0

    @property
    def span(self) -> Span:
        options = self.options
        periodic = options.refresh_interval is not None and self.step % options.refresh_interval == 0
        if options.cache is Cache.none or self.step == 0 or periodic or self.choosing:
            return Span(0, self.length, True)
        end = self.prompt + self._changed.stop if options.cache is Cache.dual else self.length
        return Span(self.prompt + self._changed.start, end, False)

    @property
    def length(self) -> int:
        """Positions of the prompt, of what is laid out, and of the window of a choice step."""
        return self.prompt + self._canvas.length + (self._window if self.choosing else 0)

    @property
    def candidates(self) -> np.ndarray:
        """Masks of the block; for a choice step, the positions at which alternatives differ."""
        if self.choosing:
            return self._canvas.length + np.arange(1 + max(each.row for each in self._openings))
        masks = self._canvas.masks
        return masks[masks < self._block_end]

    @property
    def outputs(self) -> np.ndarray:
        return self.prompt + self.candidates

    @property
    def rule(self) -> RowRule:
        """That of the first step of a block: a quota is the same at every step."""
        return self.options.row_rule(0, len(self._canvas.masks))

    @property
    def fillable_G(self) -> np.ndarray:
        return self.tokens_G == self.blank

    @property
    def committed(self) -> int:
        """Positions before the first mask; nothing changes any more once it is written."""
        masks = self._canvas.masks
        return int(masks[0]) if len(masks) else self._canvas.length

    @property
    def constraint(self) -> StepConstraint:
        """What the next step demands of the tokens of its candidates."""
        if self.choosing:
            return StepConstraint(self._padding, openings=list(self._openings))
        return StepConstraint(self._padding, slots=self._masked_slots())

    def choose(self, span: Span, scores: OpeningScores) -> StructuredSequence:
        """Decide between the alternatives by the scores of a choice step, and advance a step."""
        self._count(span)
        start = self._canvas.length
        self._canvas.choose(self._window, lambda fork: self._decide(fork, scores))
        self._lay_out()
        self.step, self._changed = 1, range(start, self._canvas.length)
        self._limit_candidates()
        return self

    def take_fixed(self) -> list[tuple[int, int, float]]:
        """Position, token and confidence of fixed tokens that are laid out since the last call."""
        start, self._reported = self._reported, self._canvas.length
        slots = [range(each.start, each.end) for each in self._canvas.slots]
        return [
            (position, int(self.tokens_G[position]), float(self.confidence_G[position]))
            for position in range(start, self._reported)
            if not any(position in slot for slot in slots)
        ]

    def _advance(self) -> None:
        self.step += 1
        length = self._canvas.length
        self._lay_out()
        if self._canvas.length > length or not len(self.candidates):
            self._begin_block()

    def _lay_out(self) -> None:
        self._canvas.extend()
        if self.done:
            self.end = self._canvas.length
        if self.choosing:
            forks = self._canvas.forks(self._window)
            openings = (Opening(fork.offset, element) for fork in forks for element in fork.groups)
            self._openings = {each: index for index, each in enumerate(dict.fromkeys(openings))}

    def _begin_block(self) -> None:
        """Begin a block at the first mask with a refresh; later steps change nothing before the mask."""
        self.step = 0
        self._limit_candidates()
        self._changed = range(self.committed, self._block_end)

    def _limit_candidates(self) -> None:
        """Let the next steps fill masks of the first mask's block only."""
        size = self.options.positions_per_block
        self._block_end = min((self.committed // size + 1) * size, self._canvas.length)

    @property
    def _window(self) -> int:
        """Masks behind the canvas at a choice step."""
        return min(CHOICE_WINDOW, self.options.max_tokens - self._canvas.length)

    def _decide(self, fork: Fork, scores: OpeningScores) -> Element:
        """The element with which the answer continues at a fork; its probability becomes its confidence."""
        openings = [self._openings[Opening(fork.offset, element)] for element in fork.groups]
        temperature = 0.0 if self.options.greedy else self.options.temperature
        chosen = drawn_opening(scores, openings, temperature, self.options.token_limits)
        element = list(fork.groups)[openings.index(chosen)]
        if isinstance(element, int):
            confidence = np.exp(min(0.0, scores.log_probability_O[chosen]))
            self.confidence_G[self._canvas.length + fork.offset] = confidence
        return element

    def _masked_slots(self) -> list[MaskedSlot]:
        """The slots that have candidates."""
        candidates, found = self.candidates, list[MaskedSlot]()
        for each in self._canvas.slots:
            first, end = np.searchsorted(candidates, (each.start, each.end)).tolist()
            if first < end:
                tokens_N = self.tokens_G[each.start : each.end].copy()
                positions_R = candidates[first:end] - each.start
                found.append(
                    MaskedSlot(each.slot.automaton, tokens_N, tokens_N == self.blank, positions_R, first)
                )
        return found
