"""Laying an outline out on the canvas: fixed tokens, masks of slots, and forks between alternatives.

What all alternatives share is laid out before the model is asked, also the slots that they share. So the
model chooses at the first position where they differ, after all slots before it are full.

Shapes: G canvas positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lladav.decoding.constraints import Element
from lladav.structured.outline import Fixed, Outline, Slot


@dataclass(frozen=True)
class PlacedSlot:
    """A slot on the canvas."""

    slot: Slot
    start: int
    """Its first canvas position."""

    @property
    def end(self) -> int:
        """The canvas position behind it."""
        return self.start + self.slot.length


@dataclass(frozen=True)
class OutlineProgress:
    """An outline that the answer may follow, and how much of it is laid out."""

    outline: Outline
    elements: tuple[Element, ...]
    """Its tokens and slots, and None where it ends the answer."""
    laid_out: int = 0
    """Number of elements that are on the canvas."""
    slots: tuple[PlacedSlot, ...] = ()

    @classmethod
    def of(cls, outline: Outline) -> OutlineProgress:
        """An outline of which nothing is laid out."""
        elements: list[Element] = []
        for piece in outline.pieces:
            elements += piece.ids if isinstance(piece, Fixed) else (piece,)
        return cls(outline, tuple(elements))

    @property
    def exhausted(self) -> bool:
        """Whether all elements are laid out."""
        return self.laid_out == len(self.elements)

    @property
    def next(self) -> Element:
        """The first element that is not laid out."""
        return self.elements[self.laid_out]

    def advanced(self, slots: Sequence[PlacedSlot] = ()) -> OutlineProgress:
        """This alternative with one more element laid out."""
        return replace(self, laid_out=self.laid_out + 1, slots=(*self.slots, *slots))


@dataclass(frozen=True)
class Fork:
    """The first position at which alternatives differ, by their elements there."""

    offset: int
    """Positions between the end of what is laid out and the fork."""
    groups: Mapping[Element, Sequence[OutlineProgress]]


class OutlineCanvas:
    """The canvas of an outline, as far as it is laid out."""

    def __init__(self, outline: Outline, tokens_G: np.ndarray, mask: int, padding: Sequence[int]) -> None:
        """Tokens are written to ``tokens_G``, which holds masks."""
        self.slots: list[PlacedSlot] = []
        self.length = 0
        """Canvas positions that are laid out."""
        self.complete = False
        """Whether the answer ends at ``length``."""
        self._tokens_G, self._mask, self._padding = tokens_G, mask, padding
        self._alternatives: list[OutlineProgress] = [OutlineProgress.of(outline)]

    @property
    def masks(self) -> np.ndarray:
        """Canvas positions of the masks in slots."""
        return np.flatnonzero(self._tokens_G[: self.length] == self._mask)

    def extend(self) -> None:
        """Lay out what all alternatives share, up to slots that must be filled or a choice."""
        while not self.complete and self._expand():
            first, *others = [each.next for each in self._alternatives]
            if any(element != first for element in others):
                return
            self._lay_out(first)

    def forks(self, window: int) -> list[Fork]:
        """All forks at an offset below ``window`` that a choice may reach."""
        found, pending = [], [self._fork(self._alternatives, 0, window)]
        while pending:
            if (fork := pending.pop()) is not None:
                found.append(fork)
                pending += [
                    self._fork(group, fork.offset + 1, window)
                    for element, group in fork.groups.items()
                    if isinstance(element, int)
                ]
        return found

    def choose(self, window: int, decide: Callable[[Fork], Element]) -> None:
        """Keep the alternatives that have the element that ``decide`` returns at each fork."""
        fork = self._fork(self._alternatives, 0, window)
        while fork is not None:
            element = decide(fork)
            self._alternatives = list(fork.groups[element])
            within = isinstance(element, int)
            fork = self._fork(self._alternatives, fork.offset + 1, window) if within else None

    def _expand(self) -> bool:
        """Replace exhausted alternatives by those that follow; False if their slots have masks."""
        while any(each.exhausted for each in self._alternatives):
            if len(self.masks):
                return False
            self._alternatives = [each for one in self._alternatives for each in self._followers(one)]
        return True

    def _followers(self, alternative: OutlineProgress) -> Iterator[OutlineProgress]:
        if not alternative.exhausted:
            yield alternative
            return
        outlines = alternative.outline.choices([self._value(slot) for slot in alternative.slots])
        yield from map(OutlineProgress.of, outlines)
        if not outlines:
            yield replace(alternative, elements=(*alternative.elements, None))

    def _value(self, slot: PlacedSlot) -> list[int]:
        """The tokens of a slot without padding."""
        tokens = self._tokens_G[slot.start : slot.end].tolist()
        return [token for token in tokens if token not in self._padding]

    def _lay_out(self, element: Element) -> None:
        slots = [PlacedSlot(element, self.length)] if isinstance(element, Slot) else []
        size = element.length if isinstance(element, Slot) else int(element is not None)
        assert self.length + size <= len(self._tokens_G), "the outline does not fit on the canvas"
        if isinstance(element, int):
            self._tokens_G[self.length] = element
        self.length += size
        self.slots += slots
        self.complete = element is None
        self._alternatives = [each.advanced(slots) for each in self._alternatives]

    def _fork(self, alternatives: Sequence[OutlineProgress], offset: int, window: int) -> Fork | None:
        """The first fork of some alternatives from an offset on; None if they share what is known."""
        while len(alternatives) > 1 and offset < window:
            if any(each.laid_out + offset == len(each.elements) for each in alternatives):
                return None
            groups: dict[Element, list[OutlineProgress]] = {}
            for each in alternatives:
                groups.setdefault(each.elements[each.laid_out + offset], []).append(each)
            if len(groups) > 1:
                return Fork(offset, groups)
            if not isinstance(next(iter(groups)), int):
                return None
            offset += 1
        return None
