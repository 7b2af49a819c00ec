"""One request's answer while it is being filled: pure bookkeeping on the host, without torch.

Positions count from the beginning of the prompt: the prompt, then the canvas of ``max_tokens`` masks in
blocks, then the fixed suffix. A step forwards a *span* of them. A *refresh* forwards all and leaves their
keys and values in memory; a *cached* step forwards what may have changed since and sees the rest as the
refresh left it.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.stops import End, beginning_of_stop, first_stop


@dataclass(frozen=True)
class Span:
    """Positions ``start`` to ``end`` of a sequence that a step forwards; a refresh forwards all of them."""

    start: int
    end: int
    refresh: bool

    def __len__(self) -> int:
        return self.end - self.start


class SequenceState:
    """Tokens of the answer, and which block and step it is in."""

    def __init__(self, prompt: int, options: DecodingOptions, mask_id: int) -> None:
        self.options = options
        self.prompt = prompt
        self.mask_id = mask_id
        self.tokens_G = np.full(options.max_tokens, mask_id, np.int64)
        for place, token in options.infill.items():
            self.tokens_G[place] = token
        self.confidence_G = np.ones(options.max_tokens, np.float64)
        self.end, self.excess = options.max_tokens, 0
        self.block = self.step = 0
        self.forwards = self.refreshes = self.positions = 0
        self._steps_of_block = options.steps_of_block
        self._find_stop()
        self._skip_full_blocks()

    @property
    def length(self) -> int:
        """Positions in all: prompt, canvas, suffix."""
        return self.prompt + self.options.behind

    @property
    def done(self) -> bool:
        """Whether nothing is left to fill."""
        return self.block * self.options.block >= self.end

    @property
    def span(self) -> Span:
        """What the next step forwards."""
        options = self.options
        if options.cache is Cache.none or self.step % (options.refresh_interval or self._steps_of_block) == 0:
            return Span(0, self.length, True)
        start = self.prompt + self.block * options.block
        return Span(start, start + options.block if options.cache is Cache.dual else self.length, False)

    @property
    def competing(self) -> np.ndarray:
        """Masked places of the canvas that the next step may fill: those of the block, before the end."""
        start = self.block * self.options.block
        masked = self.tokens_G[start : min(start + self.options.block, self.end)] == self.mask_id
        return start + np.flatnonzero(masked)

    @property
    def quota(self) -> int | None:
        """Tokens that the next step reveals; none where confidence decides."""
        quotas = self.options.quotas
        return quotas[self.step] if quotas is not None else None

    @property
    def masks(self) -> int:
        """Masks that are left on the canvas, competing or not."""
        return int(np.count_nonzero(self.tokens_G == self.mask_id))

    @property
    def answer(self) -> list[int]:
        """The tokens up to the stop, the suffix behind them."""
        return [*self.tokens_G[: self.end].tolist(), *self.options.suffix]

    @property
    def committed(self) -> int:
        """How many tokens of the answer can no longer change, nor be cut off by a stop to come.

        A token that is a stop's in part is not among them: ``excess`` says what is left of it.
        """
        masked = np.flatnonzero(self._open_G[: self.end])
        written = int(masked[0]) if len(masked) else self.end
        if written == self.end and (self.done or self.end < self.options.max_tokens):
            return written - (self.excess > 0)
        settled = self.tokens_G[:written]
        open_ends = [beginning_of_stop(settled, self.options.stop)]
        if self.options.stop_texts is not None:
            open_ends.append(self.options.stop_texts.beginning(settled.tolist()))
        return written - max(open_ends)

    @property
    def _open_G(self) -> np.ndarray:
        """Places that may still be filled. A mask that is left in an earlier block stays one."""
        open_G = self.tokens_G == self.mask_id
        open_G[: self.block * self.options.block] = False
        return open_G

    def fill(self, span: Span, places: Many[int], tokens: Many[int], confidences: Many[float]) -> None:
        """Take what a step over ``span`` revealed, look for stops, and move on."""
        self.tokens_G[list(places)] = tokens
        self.confidence_G[list(places)] = confidences
        self.forwards += 1
        self.refreshes += span.refresh
        self.positions += len(span)
        self.step += 1
        if self.step >= self._steps_of_block:
            self.block, self.step = self.block + 1, 0
        self._find_stop()
        self._skip_full_blocks()

    def _skip_full_blocks(self) -> None:
        while not self.done and len(self.competing) == 0:
            self.block, self.step = self.block + 1, 0

    def _find_stop(self) -> None:
        """The earliest stop so far; one that is found later may begin before and overlap it."""
        by_ids = first_stop(self.tokens_G, self.options.stop)
        ends = [End(self.end, self.excess), by_ids]
        if self.options.stop_texts is not None:
            last = by_ids.tokens if by_ids else len(self.tokens_G)
            ends.append(self.options.stop_texts.end(self.tokens_G[:last], self._open_G[:last]))
        first = min((end for end in ends if end), key=lambda end: (end.tokens, -end.excess))
        self.end, self.excess = first.tokens, first.excess
