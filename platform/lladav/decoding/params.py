"""What a caller may ask of decoding, checked before any work is done.

Exactly one rule decides how many tokens a step reveals: ``steps`` or ``tokens_per_step`` set a quota,
``threshold``, ``factor`` and ``entropy`` follow the model's confidence. Setting two of them is an error, so
that none is silently ignored; a value that changes nothing is told in ``warnings``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from lladav.config.schema import TokenIds
from lladav.decoding.stops import StopTexts
from lladav.errors import UserError

MAX_SCALE = 100.0
"""Largest temperature and guidance: beyond it, products of finite logits may overflow."""
RULES = ("steps", "tokens_per_step", "threshold", "factor", "entropy")


class Cache(StrEnum):
    """Which keys and values a cached step takes from the last refresh."""

    none = "none"
    """None: every step forwards all positions."""
    prefix = "prefix"
    """Those before the block (LLaDA-V); the block and what lies behind it are forwarded."""
    dual = "dual"
    """Those on both sides of the block (Fast-dLLM); the block alone is forwarded."""


@dataclass(frozen=True)
class DecodingOptions:
    """Settings of one request; raises ``UserError`` where they do not fit together.

    Lengths are in tokens, places count from the beginning of the answer. Without any reveal rule a step
    reveals one token.
    """

    max_tokens: int = 128
    """Length of the canvas behind the prompt."""
    block_length: int | None = None
    """Blocks are filled one after another; none: the whole canvas is one block."""
    steps: int | None = None
    """Steps in all, split evenly over the blocks."""
    tokens_per_step: int | None = None
    """Tokens that each step reveals."""
    threshold: float | None = None
    """Reveal every token of at least this probability, and always the most probable one."""
    factor: float | None = None
    """Reveal the n most probable tokens while the n-th has probability 1 - factor / (n + 1) or more."""
    entropy: float | None = None
    """Reveal the most probable tokens while their entropies, less the largest, sum to at most so many nats
    (entropy-bounded unmasking, arXiv 2505.24857)."""
    refresh_interval: int | None = 1
    """A refresh of the cache every so many steps of a block, from its first on; none: once. 1 is exact."""
    cache: Cache = Cache.prefix
    """What cached steps take from the last refresh."""
    temperature: float = 0.0
    """Of Gumbel-max sampling; 0 takes the most probable token."""
    top_p: float = 1.0
    """Sample among the most probable tokens that hold so much of the probability."""
    seed: int = 0
    """Of the sampling; a request's draws depend on it and on the request's id alone."""
    guidance: float = 0.0
    """Classifier-free guidance: logits are moved by so many times the difference that the prompt makes."""
    stop: tuple[tuple[int, ...], ...] = ()
    """Token sequences that end an answer; they are not part of it."""
    stop_texts: StopTexts | None = None
    """Texts that end an answer, however they are cut into tokens."""
    forbidden: tuple[int, ...] = ()
    """Ids that are never revealed."""
    suffix: tuple[int, ...] = ()
    """Fixed ids behind the canvas, visible to it from the first step."""
    infill: Mapping[int, int] = field(default_factory=dict)
    """Fixed ids at places of the canvas; the other places are filled around them."""
    allowed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Ids that may be revealed at a place of the canvas, ``forbidden`` ones included; other places may become
    anything that is not forbidden."""

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_one_rule()
        _require(all(self.stop), "stop", self.stop, "leave out empty sequences")
        self._check_blocks()
        self._check_places()

    @classmethod
    def for_chat(cls, ids: TokenIds, **settings: Any) -> DecodingOptions:
        """Options that stop at eot and never reveal BOS, EOS or header ids, as the released decoder does."""
        forbidden = (ids.eos, ids.bos, ids.start_header, ids.end_header)
        return cls(**{"stop": ((ids.eot,),), "forbidden": forbidden, **settings})

    @property
    def block(self) -> int:
        """Positions of a block."""
        return self.block_length or self.max_tokens

    @property
    def blocks(self) -> int:
        """Blocks of the canvas."""
        return self.max_tokens // self.block

    @cached_property
    def quotas(self) -> list[int] | None:
        """Tokens to reveal at each step of a block; none where confidence decides."""
        if self.threshold is not None or self.factor is not None or self.entropy is not None:
            return None
        if self.steps is None:
            each = self.tokens_per_step or 1
            return [min(each, self.block - start) for start in range(0, self.block, each)]
        base, extra = divmod(self.block, self.steps // self.blocks)
        return [base + (step < extra) for step in range(min(self.steps // self.blocks, self.block))]

    @property
    def steps_of_block(self) -> int:
        """Steps after which a block is left, full or not."""
        return self.block if self.quotas is None else len(self.quotas)

    @property
    def behind(self) -> int:
        """Positions behind the prompt: canvas and suffix."""
        return self.max_tokens + len(self.suffix)

    @property
    def warnings(self) -> list[str]:
        """Settings that change nothing, a line each."""
        found = []
        if self.refresh_interval is not None and self.refresh_interval > self.steps_of_block:
            found.append(
                f"refresh_interval {self.refresh_interval} is above the {self.steps_of_block} steps of a "
                "block, which begins with a refresh: it is the same as none"
            )
        if self.cache is not Cache.prefix and self.refresh_interval == 1:
            found.append(f"cache {self.cache.value} with refresh_interval 1 is the same as no cache")
        if self.temperature == 0 and self.top_p < 1:
            found.append(f"top_p {self.top_p} does nothing at temperature 0")
        return found

    def _check_ranges(self) -> None:
        for name in ("max_tokens", "block_length", "steps", "tokens_per_step", "refresh_interval"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "use 1 or more")
        _require(self.threshold is None or 0 < self.threshold <= 1, "threshold", self.threshold, "use (0, 1]")
        for name in ("factor", "entropy"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "use above 0")
        for name in ("temperature", "guidance"):
            value = getattr(self, name)
            _require(0 <= value <= MAX_SCALE, name, value, f"use 0 to {MAX_SCALE:g}")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "use (0, 1]")

    def _check_places(self) -> None:
        for name in ("infill", "allowed"):
            places = getattr(self, name)
            if outside := sorted(place for place in places if not 0 <= place < self.max_tokens):
                raise UserError(
                    f"decoding: {name} has places {outside} outside 0 to {self.max_tokens - 1}; move them or "
                    "raise max_tokens"
                )
        if empty := sorted(place for place, ids in self.allowed.items() if not ids):
            raise UserError(
                f"decoding: allowed has no ids at places {empty}; name one at least, or leave the places out"
            )

    def _check_one_rule(self) -> None:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"decoding: {' and '.join(given)} exclude each other; keep one of them")

    def _check_blocks(self) -> None:
        if self.steps is not None and self.steps > self.max_tokens:
            raise UserError(
                f"decoding: steps {self.steps} are more than max_tokens {self.max_tokens}; a step "
                "reveals one token at least"
            )
        if self.max_tokens % self.block != 0:
            raise UserError(
                f"decoding: block_length {self.block} does not divide max_tokens {self.max_tokens}; "
                "choose a divisor"
            )
        if self.steps is not None and self.steps % self.blocks != 0:
            raise UserError(
                f"decoding: steps {self.steps} do not split over {self.blocks} blocks; "
                f"choose a multiple of {self.blocks}"
            )


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"decoding: {name} is {value}; {fix}")
