"""Results of a request: what each step did, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lladav.decoding.errors import FailureKind
from lladav.decoding.sequence import RankedTokens, SequenceState


@dataclass(frozen=True)
class Decoded:
    """A finished answer, and what it took."""

    tokens: list[int]
    """Tokens before the stop, then the suffix."""
    confidences: list[float]
    """Probability of each token, without the suffix, when it was unmasked."""
    forwards: int
    refreshes: int
    """Forwards that were refreshes."""
    positions: int
    """Positions of all forwards."""
    stopped: bool = False
    """Whether a stop or an outline ended the answer; otherwise it fills its canvas."""
    warnings: list[str] = field(default_factory=list)
    excess: int = 0
    """Bytes at the end of the last token that belong to a stop text."""
    follows_outline: bool = False
    """Whether the answer follows an outline."""
    top: list[RankedTokens] = field(default_factory=list)
    """The most probable tokens for each token, when it was unmasked, if the request asks for them; none for
    tokens that an outline fixes."""

    def text(self, token_bytes: Callable[[int], bytes]) -> str:
        """The text, suffix included; ``token_bytes`` returns the UTF-8 bytes of a token."""
        count = len(self.confidences)
        answer, suffix = (
            b"".join(map(token_bytes, ids)) for ids in (self.tokens[:count], self.tokens[count:])
        )
        return answer[: len(answer) - self.excess].decode(errors="replace") + suffix.decode(errors="replace")


@dataclass(frozen=True)
class UnmaskedTokens:
    """Canvas positions that a step unmasked, their tokens, and the probability of each.

    Tokens that an outline has fixed are among them.
    """

    positions: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    top: dict[int, RankedTokens] = field(default_factory=dict)
    """The most probable tokens at these positions, if the request asks for them."""

    def selected(self, indices: Sequence[int]) -> UnmaskedTokens:
        """The tokens at these indices."""
        return UnmaskedTokens(
            [self.positions[index] for index in indices],
            [self.tokens[index] for index in indices],
            [self.confidences[index] for index in indices],
            self.top,
        )

    def with_fixed(self, state: SequenceState) -> UnmaskedTokens:
        """These tokens and those that the outline of a row has fixed since the last step."""
        if not (fixed := state.take_fixed()):
            return self
        positions, tokens, confidences = zip(*fixed, strict=True)
        return UnmaskedTokens(
            [*self.positions, *positions],
            [*self.tokens, *tokens],
            [*self.confidences, *confidences],
            self.top,
        )


@dataclass(frozen=True)
class Update:
    """What one step did to a request. The last update of a request has its ``answer`` or an ``error``."""

    id: str
    unmasked: UnmaskedTokens = field(default_factory=UnmaskedTokens)
    committed: int = 0
    """Number of leading tokens of the answer that are final."""
    end: int = 0
    """Number of tokens of the answer, as far as stops are found."""
    excess: int = 0
    """Bytes at the end of the last token that belong to a stop text."""
    step: int = 0
    """Number of steps of the request so far."""
    follows_outline: bool = False
    """Whether the answer follows an outline; false until an answer decides for its outline."""
    forwarded: int = 0
    """Positions that this step forwarded, of all branches."""
    refresh: bool = False
    answer: Decoded | None = None
    error: str | None = None
    failure: FailureKind | None = None
    """The kind of the error."""


def decoded(state: SequenceState) -> Decoded:
    """The answer of a sequence that is done."""
    return Decoded(
        tokens=state.answer,
        confidences=state.confidence_G[: state.end].tolist(),
        forwards=state.forwards,
        refreshes=state.refreshes,
        positions=state.positions,
        stopped=state.stopped,
        warnings=state.options.warnings,
        excess=state.excess,
        follows_outline=state.follows_outline,
        top=[state.top.get(position, []) for position in range(state.end)] if state.top else [],
    )
