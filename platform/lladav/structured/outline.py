"""The interface between structured output and the decoding engine: fixed tokens, slots and choices.

An outline begins with pieces: fixed tokens, and slots that decoding fills. After them the answer ends, or the
engine chooses among further outlines, by the model's probability of their pieces. Only the chosen one is
expanded, so a recursive schema costs what the answer needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from lladav.structured.languages.automaton import TokenAutomaton


@dataclass(frozen=True)
class Fixed:
    """Tokens that are part of every answer."""

    ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Canvas positions."""
        return len(self.ids)


@dataclass(frozen=True)
class Slot:
    """Canvas positions whose tokens an automaton accepts; padding follows a shorter value."""

    automaton: TokenAutomaton
    length: int
    """Positions, at least ``automaton.min_tokens``."""


Piece: TypeAlias = Fixed | Slot


class Outline(Protocol):
    """An immutable state of an answer; any path of choices leads to a complete answer that fits."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """The pieces up to the next choice or the end."""
        ...

    def choices(self, values: Sequence[Sequence[int]]) -> Sequence[Outline]:
        """The outlines that may follow, given the tokens of this outline's slots; empty at the end.

        A value is the tokens of one slot without padding. The engine does not ask the model where there is
        one outline.
        """
        ...
