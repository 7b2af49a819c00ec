"""What a caller may ask of decoding, checked before any work is done.

Exactly one rule decides how many tokens a step reveals: ``steps`` or ``tokens_per_step`` set a quota,
``threshold`` and ``factor`` follow the model's confidence. Setting two of them is an error, so that none is
silently ignored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lladav.errors import UserError
from lladav.schema import TokenIds

RULES = ("steps", "tokens_per_step", "threshold", "factor")


@dataclass(frozen=True)
class DecodingOptions:
    """Settings of one call; raises ``UserError`` where they do not fit together.

    Lengths are in tokens. Without any reveal rule a step reveals one token.
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
    temperature: float = 0.0
    """Of Gumbel-max sampling; 0 takes the most probable token."""
    seed: int = 0
    """Of the sampling; a sample's draws depend on it and on the sample's id alone."""
    stop: tuple[tuple[int, ...], ...] = ()
    """Token sequences that end an answer; they are not part of it."""
    forbidden: tuple[int, ...] = ()
    """Ids that are never revealed."""
    suffix: tuple[int, ...] = ()
    """Fixed ids behind the canvas, visible to it from the first step."""

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_one_rule()
        _require(all(self.stop), "stop", self.stop, "leave out empty sequences")
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

    @property
    def quotas(self) -> list[int] | None:
        """Tokens to reveal at each step of a block; none where confidence decides."""
        if self.threshold is not None or self.factor is not None:
            return None
        if self.steps is None:
            each = self.tokens_per_step or 1
            return [min(each, self.block - start) for start in range(0, self.block, each)]
        base, extra = divmod(self.block, self.steps // self.blocks)
        return [base + (step < extra) for step in range(min(self.steps // self.blocks, self.block))]

    def _check_ranges(self) -> None:
        for name in ("max_tokens", "block_length", "steps", "tokens_per_step"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "use 1 or more")
        _require(self.threshold is None or 0 < self.threshold <= 1, "threshold", self.threshold, "use (0, 1]")
        _require(self.factor is None or 0 < self.factor < math.inf, "factor", self.factor, "use above 0")
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "use 0 or more")

    def _check_one_rule(self) -> None:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"decoding: {' and '.join(given)} exclude each other; keep one of them")


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"decoding: {name} is {value}; {fix}")
