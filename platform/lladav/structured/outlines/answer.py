"""Outlines of an answer: a stack of parts, written up to the next choice.

Contiguous text is encoded together, so it has the tokens that the model knows: the text before a choice is
encoded with the text of each alternative, and where an alternative leads to a further choice before any slot,
both choices are one. Tokens that all alternatives begin with are written before the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from lladav.structured.outline import Fixed, Piece, Slot
from lladav.structured.outlines.cost import Cost, total
from lladav.structured.outlines.distinct import value_of
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.parts import (
    Collection,
    Known,
    OpenPart,
    Part,
    SlotPart,
    Stack,
    Text,
    cost_of,
    push,
)

MAX_ALTERNATIVES = 512
"""Alternatives of one choice, at most; further ones are not offered."""
NARROW = 8
"""Alternatives of a choice that is looked at before it has to be made."""


class AnswerOutline:
    """What remains of an answer: first ``ids``, then a stack of parts."""

    def __init__(
        self, encoder: TextEncoder, stack: Stack | None, left: int, known: Known, ids: Sequence[int] = ()
    ) -> None:
        """``left`` are the canvas positions for the stack, at least the minimum of its cost."""
        self._encoder, self._stack, self._left, self._known, self._ids = encoder, stack, left, known, ids

    @property
    def pieces(self) -> Sequence[Piece]:
        return self._written.pieces

    @property
    def length(self) -> int | None:
        """Positions of the pieces; None if more may follow."""
        return None if self._written.branches else sum(each.length for each in self.pieces)

    def choices(self, values: Sequence[Sequence[int]]) -> Sequence[AnswerOutline]:
        known = dict(self._known)
        for slot, ids in zip(self._written.slots, values, strict=True):
            if slot.collection is not None:
                value = value_of(self._encoder.text(ids), slot.quoted)
                known[slot.collection] = (*known.get(slot.collection, ()), value)
        branches = self._written.branches
        return [AnswerOutline(self._encoder, each.stack, each.left, known, each.ids) for each in branches]

    @cached_property
    def _written(self) -> OutlineWriter:
        return OutlineWriter(self._encoder, self._stack, self._left, self._known, self._ids)


@dataclass(frozen=True)
class Branch:
    """The beginning of an outline that may follow."""

    ids: Sequence[int]
    stack: Stack | None
    left: int


@dataclass(frozen=True)
class Continuation:
    """Text and the stack behind it, which begins with a slot, begins with a choice, or is empty."""

    texts: Sequence[Text]
    stack: Stack | None

    @property
    def precedes_slot(self) -> bool:
        return self.stack is not None and isinstance(self.stack.part, SlotPart)


class OutlineWriter:
    """Writes a stack up to the next choice, and the text of each alternative."""

    def __init__(
        self, encoder: TextEncoder, stack: Stack | None, left: int, known: Known, ids: Sequence[int]
    ) -> None:
        self.pieces: list[Piece] = []
        self.slots: list[SlotPart] = []
        self.branches: list[Branch] = []
        self._encoder, self._left, self._known, self._ids = encoder, left, known, list(ids)
        self._write(stack)
        self._flush()

    def _write(self, stack: Stack | None) -> None:
        """Write up to the next choice, or up to what a further outline has to write."""
        while not self._is_put_off(stack):
            following = self._continuations(stack, self._left)
            if len(following) > 1:
                self._choose((), following)
                return
            (only,) = following
            if only.stack is None or not isinstance(only.stack.part, SlotPart):
                self._finish(stack, only)
                return
            self._fix(only.texts)
            self._add_slot(only.stack.part, only.stack.cost)
            stack = only.stack.rest
        self.branches.append(Branch((), stack, self._left))

    def _finish(self, stack: Stack | None, last: Continuation) -> None:
        """Write the text on top of a stack and the choice that follows, unless they are put off together."""
        if last.stack is None:
            self._fix(last.texts)
        elif self._is_put_off(last.stack):
            self.branches.append(Branch((), stack, self._left))
        else:
            self._choose(last.texts, self._continuations(last.stack, self._left - _count(last.texts)))

    def _is_put_off(self, stack: Stack | None) -> bool:
        """Whether a further outline writes a stack: its top depends on these slots, or is a wide choice.

        All alternatives of a choice are written to compare them. Wide choices behind them would be costly.
        """
        is_started = bool(self.pieces or self._ids)
        return stack is not None and (self._waits(stack.part) or (is_started and _is_wide(stack.part)))

    def _continuations(self, stack: Stack | None, left: int) -> list[Continuation]:
        """The ways to continue: one, or the alternatives of a choice that has no text before it."""
        found, pending = list[Continuation](), [stack]
        while pending and len(found) < MAX_ALTERNATIVES:
            followed = self._follow(pending.pop(), left)
            if isinstance(followed, Continuation):
                found.append(followed)
            else:
                pending += reversed(followed)
        return found

    def _follow(self, stack: Stack | None, left: int) -> Continuation | list[Stack | None]:
        """The text that comes next; if a choice comes first, the stacks of its alternatives."""
        texts = list[Text]()
        while stack is not None and not isinstance(stack.part, SlotPart) and not self._waits(stack.part):
            if isinstance(stack.part, Text):
                texts.append(stack.part)
                left -= int(stack.part.cost.minimum)
                stack = stack.rest
                continue
            if texts and _is_wide(stack.part):
                break
            stacks = self._alternatives(stack.part, stack.rest, left)
            if len(stacks) > 1:
                return Continuation(texts, stack) if texts else stacks
            stack = stacks[0]
        return Continuation(texts, stack)

    def _alternatives(self, part: OpenPart, rest: Stack | None, left: int) -> list[Stack | None]:
        """The stacks that may replace one with an open part on top, and can be completed."""
        below = cost_of(rest)
        stacks, comfortable = list[Stack | None](), list[Stack | None]()
        for each in part.alternatives(self._known):
            stack = push(each.parts, rest)
            own = cost_of(stack) - below
            if own.minimum + below.minimum > left:
                continue
            stacks.append(stack)
            if not each.extra or own.comfortable + below.minimum <= left:
                comfortable.append(stack)
        assert stacks, "an alternative must fit"
        # What the answer can do without is offered if its values are not cut much.
        stacks = comfortable or stacks
        return stacks[:1] if part.decided else stacks

    def _waits(self, part: Part) -> bool:
        """Whether a part depends on the values of the slots of this outline."""
        return not isinstance(part, Text | SlotPart) and part.collection in self._recorded

    @property
    def _recorded(self) -> set[Collection]:
        return {slot.collection for slot in self.slots if slot.collection is not None}

    def _choose(self, texts: Sequence[Text], alternatives: Sequence[Continuation]) -> None:
        """Write the tokens that all alternatives share; ``texts`` stand before the choice."""
        if len(alternatives) <= NARROW:
            alternatives = [more for each in alternatives for more in self._further(texts, each)]
        ids = [self._encode([*texts, *each.texts]) for each in alternatives]
        shared = _shared(ids)
        pairs = list(zip(ids, alternatives, strict=True))
        if any(len(own) == shared and not each.precedes_slot for own, each in pairs):
            shared -= 1  # every alternative has a piece
        self._ids += ids[0][:shared]
        self.branches += [Branch(own[shared:], each.stack, self._left - len(own)) for own, each in pairs]

    def _further(self, texts: Sequence[Text], alternative: Continuation) -> list[Continuation]:
        """The alternatives of the choice that follows the text of an alternative, if one does."""
        stack = alternative.stack
        if stack is None or alternative.precedes_slot or self._waits(stack.part) or _is_wide(stack.part):
            return [alternative]
        left = self._left - _count([*texts, *alternative.texts])
        following = self._continuations(stack, left)
        return [Continuation([*alternative.texts, *each.texts], each.stack) for each in following]

    def _fix(self, texts: Sequence[Text]) -> None:
        ids = self._encode(texts)
        self._ids += ids
        self._left -= len(ids)

    def _encode(self, texts: Sequence[Text]) -> tuple[int, ...]:
        return self._encoder.encode([each.text for each in texts])

    def _add_slot(self, slot: SlotPart, remaining: Cost) -> None:
        """Write a slot. It shares the positions that are left with all that remains."""
        self._flush()
        spare = self._left - remaining.minimum
        share = slot.cost.extra if spare >= remaining.extra else slot.cost.extra * spare // remaining.extra
        length = int(slot.cost.minimum + share)
        self.pieces.append(Slot(slot.automaton, length))
        self.slots.append(slot)
        self._left -= length

    def _flush(self) -> None:
        if self._ids:
            self.pieces.append(Fixed(tuple(self._ids)))
        self._ids.clear()


def _is_wide(part: Part) -> bool:
    """Whether a part has many alternatives."""
    return not isinstance(part, Text | SlotPart) and part.width > NARROW


def _count(texts: Sequence[Text]) -> int:
    """Tokens of texts, at most."""
    return int(total(text.cost for text in texts).minimum)


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """How many first tokens all sequences share."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*ids, strict=False)))
