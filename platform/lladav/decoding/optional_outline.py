"""An answer that is free text or follows an outline, as the model decides.

The outline begins with a fixed token. In the first step, a refresh over the canvas of the text, the model
gives this token a probability at the first position; all other tokens together have the rest. The text then
does not begin with the token, so both kinds of answers are disjoint and no answer is ruled out by the way in
which it is compared. After that step the answer is one of text alone, or one with an outline alone.
"""

from __future__ import annotations

import numpy as np

from lladav.config.schema import TokenIds
from lladav.decoding.constraints import AnyOther, Opening, OpeningScores, StepConstraint, drawn_opening
from lladav.decoding.params import DecodingOptions
from lladav.decoding.sequence import DenoisingSequence, SequenceState, Span
from lladav.decoding.structured_sequence import StructuredSequence
from lladav.decoding.unmasking import QUOTA, RowRule
from lladav.structured.outline import Fixed


class OptionalOutlineSequence(SequenceState):
    """The answer before it is decided."""

    def __init__(self, prompt: int, options: DecodingOptions, ids: TokenIds) -> None:
        assert options.outline is not None
        assert options.text_options is not None
        super().__init__(prompt, options.text_options, ids.mask_id)
        first = options.outline.pieces[0]
        assert isinstance(first, Fixed)
        self._with_outline, self._ids = options, ids
        self._outline, self._text = first.ids[0], AnyOther(first.ids[0])

    @property
    def done(self) -> bool:
        return False

    @property
    def span(self) -> Span:
        return Span(0, self.length, True)

    @property
    def length(self) -> int:
        return self.prompt + self.options.answer_positions

    @property
    def candidates(self) -> np.ndarray:
        """The position at which outline and text differ."""
        return np.array([0])

    @property
    def outputs(self) -> np.ndarray:
        return np.array([self.prompt])

    @property
    def rule(self) -> RowRule:
        return RowRule(QUOTA, 1, self.options.max_tokens)

    @property
    def fillable_G(self) -> np.ndarray:
        return self.tokens_G == self.blank

    @property
    def choosing(self) -> bool:
        return True

    @property
    def constraint(self) -> StepConstraint:
        return StepConstraint((), openings=[Opening(0, self._outline), Opening(0, self._text)])

    def choose(self, span: Span, scores: OpeningScores) -> SequenceState:
        """The answer of the kind that the model decides for; the outline if both are as probable."""
        self._count(span)
        temperature = 0.0 if self.options.greedy else self.options.temperature
        follows_outline = drawn_opening(scores, (0, 1), temperature, self.options.token_limits) == 0
        chosen: SequenceState
        if follows_outline:
            chosen = StructuredSequence(self.prompt, self._with_outline, self._ids)
        else:
            chosen = DenoisingSequence(self.prompt, self.options, self._ids.mask_id, not_first=self._outline)
        chosen.forwards, chosen.refreshes, chosen.positions = self.forwards, self.refreshes, self.positions
        return chosen

    def _advance(self) -> None:
        raise NotImplementedError  # every step chooses
