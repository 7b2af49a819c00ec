"""Decoding options of a request, checked before any work is done.

At most one unmasking rule is set: two of them are an error, so that none is silently ignored. ``warnings``
lists settings that have no effect.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any

from lladav.config.schema import Prediction, TokenIds
from lladav.decoding.stops import StopTexts
from lladav.decoding.token_limits import NO_LIMITS, TokenLimits
from lladav.decoding.unmasking import (
    QUOTA,
    RULES,
    ParameterRange,
    RowRule,
    UnmaskingOptions,
    UnmaskingRule,
    given_rule_parameters,
    rule_parameters,
)
from lladav.errors import UserError
from lladav.structured.outline import Outline

MAX_SCALE = 100.0
"""Largest temperature and guidance: beyond it, products of finite logits may overflow."""
MIN_TEMPERATURE = 1e-3
"""Below it the most probable token is taken: there is hardly a difference, and quotients of logits may
overflow."""
MAX_BIAS = 100.0
"""Largest bias of a logit, in either direction; it decides whether a token is written."""
MAX_PENALTY = 2.0
"""Largest presence and frequency penalty, in either direction."""
MIN_FACTOR, MAX_FACTOR = 0.01, 100.0
"""Least and largest repetition penalty: beyond them, quotients and products of finite logits may overflow."""
MAX_TOP_LOGPROBS = 20
"""Most candidates whose probabilities are reported."""

REPETITION = "no_repeat_ngram", "repetition_penalty", "frequency_penalty", "presence_penalty"
"""Options that suppress repetition."""

NEXT_TOKEN_OPTIONS = frozenset(
    (
        *("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "stop_texts", "forbidden"),
        *("logit_bias", "top_logprobs", *REPETITION),
    )
)
"""Options that a next-token model has; all others say how masks are filled."""

BOUNDS = {
    "temperature": (0, MAX_SCALE),
    "guidance": (0, MAX_SCALE),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-MAX_PENALTY, MAX_PENALTY),
    "presence_penalty": (-MAX_PENALTY, MAX_PENALTY),
    "repetition_penalty": (MIN_FACTOR, MAX_FACTOR),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
}
"""Least and largest values of options."""

WITHOUT_OUTLINE = "stop", "stop_texts", "suffix", "infill", *REPETITION
"""Options that have no meaning for an answer that follows an outline."""


def refused_for_next_token(names: Iterable[str]) -> list[str]:
    """The settings among ``names`` that have no meaning for a next-token model."""
    return [name for name in names if name not in NEXT_TOKEN_OPTIONS]


def refusal(names: Sequence[str]) -> str:
    """A line that says why a next-token model refuses settings."""
    it = "it" if len(names) == 1 else "them"
    return f"{', '.join(names)}: for masked diffusion only, and this model predicts the next token; omit {it}"


def check_next_token(names: Iterable[str]) -> None:
    """Raise ``UserError`` if one of these settings has no meaning for a next-token model."""
    if refused := refused_for_next_token(names):
        raise UserError(f"decoding: {refusal(refused)}")


class Cache(StrEnum):
    """Which keys and values a cached step reuses from the last refresh."""

    none = "none"
    """None: every step forwards all positions."""
    prefix = "prefix"
    """Those before the block (LLaDA-V); the step forwards the block and everything after it."""
    dual = "dual"
    """Those on both sides of the block (Fast-dLLM); the step forwards the block alone."""


@dataclass(frozen=True)
class DecodingOptions(UnmaskingOptions):
    """Settings of one request; raises ``UserError`` for settings that are out of range or contradict.

    Lengths are in tokens. Canvas positions count from the beginning of the answer.
    """

    max_tokens: int = 128
    """Length of the canvas after the prompt."""
    block_length: int | None = None
    """Tokens of a block; blocks are filled one after another. none: the whole canvas is one block."""
    refresh_interval: int | None = 1
    """Steps from one refresh of the KV cache to the next, counted from the first step of a block; none: one
    refresh per block. 1 is exact."""
    cache: Cache = Cache.prefix
    """What cached steps reuse from the last refresh."""
    temperature: float = 0.0
    """Temperature of Gumbel-max sampling; 0 takes the most probable token."""
    top_k: int | None = None
    """Sample among this many most probable tokens; none: among all."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together have this probability; 0 takes the most probable
    one."""
    min_p: float = 0.0
    """Sample among the tokens with at least this share of the probability of the most probable one."""
    seed: int = 0
    """Seed of the sampling; random draws depend on it and on the id of the prompt alone."""
    guidance: float = 0.0
    """Scale of classifier-free guidance: logits move away from the unconditional ones by this many times the
    difference between conditional and unconditional logits."""
    stop: tuple[tuple[int, ...], ...] = ()
    """Token sequences that end an answer; they are not part of it."""
    stop_texts: StopTexts | None = None
    """Texts that end an answer, however they are split into tokens."""
    forbidden: tuple[int, ...] = ()
    """Token ids that are never sampled."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """What is added to the logits of token ids at every position, -100 to 100."""
    no_repeat_ngram: int | None = None
    """No sequence of this many tokens occurs twice in the answer; none: repetition is not suppressed."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the answer has are divided by this if they are positive, and multiplied by it if
    they are negative."""
    frequency_penalty: float = 0.0
    """What is taken off the logit of a token for each time that the answer has it, -2 to 2."""
    presence_penalty: float = 0.0
    """What is taken off the logit of each token that the answer has, -2 to 2."""
    suffix: tuple[int, ...] = ()
    """Fixed token ids after the canvas, visible from the first step."""
    infill: Mapping[int, int] = field(default_factory=dict)
    """Fixed token ids at canvas positions; the other positions are filled around them."""
    outline: Outline | None = None
    """What the answer looks like: fixed tokens, slots with a language, and choices. It takes at most
    ``max_tokens`` positions and ends by itself. EOS and eot fill a slot behind its value, even if they are
    ``forbidden``."""
    text_options: DecodingOptions | None = None
    """Options of the text that the answer may be instead: the model decides between text and outline, which
    begins with a fixed token; see ``optional_outline``."""
    top_logprobs: int = 0
    """How many of the most probable tokens are reported for each token of the answer, up to 20."""

    def __post_init__(self) -> None:
        self._check_ranges()
        if len(given := given_rule_parameters(self.__dict__)) > 1:
            raise UserError(f"decoding: {' and '.join(given)} exclude each other; keep one of them")
        _require(all(self.stop), "stop", self.stop, "leave out empty sequences")
        self._check_blocks()
        self._check_canvas_positions()
        self._check_outline()

    @classmethod
    def for_chat(
        cls,
        ids: TokenIds,
        prediction: Prediction = Prediction.masked,
        *,
        allow_eos: bool = False,
        **settings: Any,
    ) -> DecodingOptions:
        """Options of an answer in a chat, which ends at eot.

        A masked-diffusion model never samples BOS, EOS or header ids, as in the released decoder. With
        ``allow_eos`` it may sample EOS, where an answer then ends, too: for models that have learned to write
        EOS behind answers (``objective.eos_tail``). An answer always ends at EOS if the model predicts the
        next token. An answer with an outline ends with it, and ``allow_eos`` has no effect on it. Raises
        ``UserError`` for settings that such a model does not have.
        """
        ends = (ids.eot,), (ids.eos,)
        if prediction is Prediction.next_token:
            check_next_token([*settings, "allow_eos"] if allow_eos else settings)
            return cls(**{"stop": ends, **settings})
        forbidden = ids.bos, ids.start_header, ids.end_header
        if settings.get("outline") is not None:
            return cls(**{"forbidden": (ids.eos, *forbidden), **settings})
        if allow_eos:
            return cls(**{"stop": ends, "forbidden": forbidden, **settings})
        return cls(**{"stop": ends[:1], "forbidden": (ids.eos, *forbidden), **settings})

    def with_refresh_interval(self, refresh_interval: int | None) -> DecodingOptions:
        """A copy with the refresh interval that is chosen when a request is admitted, also for its text.

        Nothing is validated again: the caller chooses from a range that it has checked.
        """
        text = self.text_options and self.text_options.with_refresh_interval(refresh_interval)
        return self._with(refresh_interval=refresh_interval, text_options=text)

    def with_stop_texts(self, stop_texts: StopTexts | None) -> DecodingOptions:
        """A copy with the texts that end an answer without an outline; nothing is validated again."""
        if self.text_options is not None:
            return self._with(text_options=self.text_options.with_stop_texts(stop_texts))
        return self._with(stop_texts=stop_texts)

    def with_outline(self, outline: Outline | None) -> DecodingOptions:
        """A copy with another outline, for a process that receives options without one.

        Nothing is validated again: the outline is one with which the options have been validated.
        """
        return self._with(outline=outline)

    def _with(self, **values: Any) -> DecodingOptions:
        options = copy.copy(self)  # not dataclasses.replace, which validates every option
        options.__dict__.update(values)
        return options

    @property
    def changed(self) -> list[str]:
        """Names of the settings that differ from their defaults."""
        defaults = {
            each.name: each.default if each.default_factory is MISSING else each.default_factory()
            for each in fields(self)
        }
        return [name for name, default in defaults.items() if getattr(self, name) != default]

    @property
    def token_ids(self) -> set[int]:
        """All ids that the options name."""
        stops = (i for stop in self.stop for i in stop)
        own = {*self.forbidden, *self.logit_bias, *self.suffix, *self.infill.values(), *stops}
        return own if self.text_options is None else own | self.text_options.token_ids

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < MIN_TEMPERATURE or self.top_p == 0

    @property
    def token_limits(self) -> TokenLimits:
        """Among which tokens a draw is made."""
        return TokenLimits(self.top_k, self.top_p, self.min_p)

    @property
    def positions_per_block(self) -> int:
        """Canvas positions of a block."""
        return self.block_length or self.max_tokens

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas."""
        return self.max_tokens // self.positions_per_block

    @property
    def rule(self) -> UnmaskingRule:
        """The unmasking rule whose parameter is set; by default the quota."""
        given = given_rule_parameters(self.__dict__)
        return next((rule for rule in RULES.values() if given.keys() & rule.parameters.keys()), QUOTA)

    def row_rule(self, step: int, masks: int) -> RowRule:
        """The rule at a step of a block, for a canvas with ``masks`` masks left."""
        if self.quotas is not None:
            return RowRule(self.rule, self.quotas[min(step, len(self.quotas) - 1)], masks)
        (value,) = given_rule_parameters(self.__dict__).values()
        return RowRule(self.rule, value, masks)

    @cached_property
    def quotas(self) -> list[int] | None:
        """Tokens to unmask at each step of a block; None for rules other than the quota."""
        if self.rule is not QUOTA:
            return None
        block = self.positions_per_block
        if self.steps is None:
            each = self.tokens_per_step or 1
            return [min(each, block - start) for start in range(0, block, each)]
        steps = self.steps // self.num_blocks
        base, extra = divmod(block, steps)
        return [base + (step < extra) for step in range(min(steps, block))]

    @property
    def steps_per_block(self) -> int:
        """Steps after which a block ends, even if masks are left in it.

        A step may leave tokens that repeat an n-gram to later steps, so that a quota needs more of them.
        """
        if self.quotas is None or self.no_repeat_ngram is not None:
            return self.positions_per_block
        return len(self.quotas)

    @property
    def answer_positions(self) -> int:
        """Positions after the prompt, canvas and suffix; the longer one of two kinds of answers."""
        text = 0 if self.text_options is None else self.text_options.answer_positions
        return max(self.max_tokens + len(self.suffix), text)

    @property
    def warnings(self) -> list[str]:
        """One line for each setting that has no effect."""
        found = []
        if self.refresh_interval is not None and self.refresh_interval > self.steps_per_block:
            found.append(
                f"refresh_interval {self.refresh_interval} is above the {self.steps_per_block} steps of a "
                "block, which begins with a refresh: it is the same as none"
            )
        if self.cache is not Cache.prefix and self.refresh_interval == 1:
            found.append(f"cache {self.cache.value} with refresh_interval 1 is the same as no cache")
        if self.temperature == 0:
            limits = {**vars(self.token_limits), "top_p": self.top_p or 1.0}  # 0 asks for what is done anyway
            given = [f"{name} {value}" for name, value in limits.items() if value != getattr(NO_LIMITS, name)]
            found += [f"{each} has no effect at temperature 0" for each in given]
        if self.no_repeat_ngram is not None and self.no_repeat_ngram >= self.max_tokens:
            found.append(f"no_repeat_ngram {self.no_repeat_ngram} has no effect on {self.max_tokens} tokens")
        return found

    def _check_ranges(self) -> None:
        counted = "max_tokens", "block_length", "refresh_interval", "top_k", "no_repeat_ngram"
        counts = dict.fromkeys(counted, ParameterRange.count)
        for name, bounds in {**counts, **rule_parameters()}.items():
            value = getattr(self, name, None)
            _require(value is None or bounds.contains(value), name, value, f"use {bounds.value}")
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            _require(low <= value <= high, name, value, f"use {low:g} to {high:g}")
        for token, bias in self.logit_bias.items():
            _require(
                abs(bias) <= MAX_BIAS, f"logit_bias of {token}", bias, f"use -{MAX_BIAS:g} to {MAX_BIAS:g}"
            )

    def _check_canvas_positions(self) -> None:
        if outside := sorted(position for position in self.infill if not 0 <= position < self.max_tokens):
            raise UserError(
                f"decoding: infill has positions {outside} outside 0 to {self.max_tokens - 1}; move them or "
                "raise max_tokens"
            )

    def _check_outline(self) -> None:
        if self.outline is None:
            _require(self.text_options is None, "text_options", "given", "give an outline, too")
            return
        if given := [name for name in self.changed if name in WITHOUT_OUTLINE]:
            raise UserError(f"decoding: outline excludes {', '.join(given)}; leave out one or the other")

    def _check_blocks(self) -> None:
        if self.steps is not None and self.steps > self.max_tokens:
            raise UserError(
                f"decoding: steps {self.steps} are more than max_tokens {self.max_tokens}; a step "
                "unmasks at least one token"
            )
        if self.outline is None and self.max_tokens % self.positions_per_block != 0:
            raise UserError(
                f"decoding: block_length {self.block_length} does not divide max_tokens {self.max_tokens}; "
                "choose a divisor"
            )
        if self.steps is not None and self.steps % self.num_blocks != 0:
            raise UserError(
                f"decoding: steps {self.steps} do not split over {self.num_blocks} blocks; "
                f"choose a multiple of {self.num_blocks}"
            )


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"decoding: {name} is {value}; {fix}")
