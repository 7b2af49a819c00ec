"""What a request comes to: what each step did, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lladav.decoding.errors import FailureKind
from lladav.decoding.model_runner import Reveal
from lladav.decoding.sequence import SequenceState


@dataclass(frozen=True)
class Decoded:
    """An answer: its tokens up to the stop, with the suffix behind, the probability each had when it was
    revealed, and the forwards, refreshes among them, and positions that they took.

    ``stopped`` tells whether a stop ended it, and not its canvas. Where a stop text begins inside the
    answer's last token, ``excess`` bytes at that token's end belong to the stop.
    """

    tokens: list[int]
    confidences: list[float]
    forwards: int
    refreshes: int
    positions: int
    stopped: bool = False
    warnings: list[str] = field(default_factory=list)
    excess: int = 0

    def text(self, token_bytes: Callable[[int], bytes]) -> str:
        """Its text, suffix included; ``token_bytes`` gives the UTF-8 bytes of an id."""
        count = len(self.confidences)
        own, suffix = (b"".join(map(token_bytes, ids)) for ids in (self.tokens[:count], self.tokens[count:]))
        return own[: len(own) - self.excess].decode(errors="replace") + suffix.decode(errors="replace")


@dataclass(frozen=True)
class Update:
    """What a step did to a request: places filled, and how many tokens of the answer can no longer change.

    ``end`` is how many tokens the answer has as far as stops are known, and ``excess`` how many bytes of the
    last one belong to a stop. ``step`` counts the request's steps so far, and ``forwarded`` the positions of
    this one, of all streams. The last update of a request has its ``answer``, or the ``error`` that ended it
    and what kind of ``failure`` that is.
    """

    id: str
    reveal: Reveal = field(default_factory=Reveal)
    committed: int = 0
    end: int = 0
    excess: int = 0
    step: int = 0
    forwarded: int = 0
    refresh: bool = False
    answer: Decoded | None = None
    error: str | None = None
    failure: FailureKind | None = None


def decoded(state: SequenceState) -> Decoded:
    """The answer of a sequence that is done."""
    return Decoded(
        state.answer,
        state.confidence_G[: state.end].tolist(),
        state.forwards,
        state.refreshes,
        state.positions,
        state.end < state.options.max_tokens or state.excess > 0,
        state.options.warnings,
        state.excess,
    )
