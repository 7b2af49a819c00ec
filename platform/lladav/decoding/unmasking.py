"""Unmasking rules: how many of a block's masked positions each row unmasks in a step.

Each rule is one entry of ``RULES``. To add a rule:

1. Add its parameter, with a docstring, to ``UnmaskingOptions``.
2. Write a function that returns how many of the most confident candidates each row unmasks.
3. Add the rule to ``RULES`` and its parameter to the tables of docs/decoding.md and docs/serving.md.

The checks of ``DecodingOptions``, the flags of ``lladav.generate``, the fields of a request and the values of
its ``reveal`` field follow from the table; ``tests/lladav/decoding/test_unmasking.py`` has an example. A rule
that needs another statistic of the logits than probability and entropy also extends ``SoftmaxStats`` and
``SamplerOutput``.

Settings import this module, and settings load without torch: it calls methods of tensors only.

Shapes: R rows of a step, S rows that follow one rule, B positions of the longest block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UnmaskingOptions:
    """Parameters of all rules; at most one of them is set. Without any, a step unmasks one token."""

    steps: int | None = None
    """Number of steps in total, split evenly over the blocks."""
    tokens_per_step: int | None = None
    """Tokens that each step unmasks."""
    threshold: float | None = None
    """Unmask every token of at least this probability, and always the most probable one."""
    factor: float | None = None
    """Unmask the n most probable tokens while the n-th has probability 1 - factor / (n + 1) or more."""
    entropy: float | None = None
    """Unmask the most probable tokens while the sum of their entropies, without the largest, is at most this
    number of nats (entropy-bounded unmasking, arXiv 2505.24857)."""


class ParameterRange(Enum):
    """Values that a parameter may have; the text completes "use ..." in an error."""

    count = "1 or more"
    probability = "(0, 1]"
    positive = "above 0"

    def contains(self, value: float) -> bool:
        """Whether a value is within the range; NaN and infinity never are."""
        if self is ParameterRange.count:
            return value >= 1
        return 0 < value <= 1 if self is ParameterRange.probability else 0 < value < math.inf


@dataclass(frozen=True)
class RankedCandidates:
    """Candidates of rows that follow one rule, the most confident first.

    Rows with fewer candidates than B are filled up with confidence minus infinity and entropy infinity. The
    entropy is None unless a rule of the step needs it. ``masks_S`` is the number of masks left on the whole
    canvas.
    """

    confidence_SB: Tensor
    entropy_SB: Tensor | None
    rank_B: Tensor
    """1, 2, 3, ..."""
    masks_S: Tensor


@dataclass(frozen=True)
class UnmaskingRule:
    """A rule and all that follows from it."""

    name: str
    """Value of a request's ``reveal`` field."""
    parameters: Mapping[str, ParameterRange]
    """Fields of ``UnmaskingOptions``; any of them selects the rule."""
    count: Callable[[RankedCandidates, Tensor], Tensor]
    """How many candidates each row unmasks (S), given the value (S) of its parameter. The most confident
    candidate is unmasked even where this is 0."""
    default: float | None = None
    """Value of the first parameter where a request gives the name of the rule alone."""
    needs_entropy: bool = False


@dataclass(frozen=True)
class RowRule:
    """What one row unmasks by in one step."""

    rule: UnmaskingRule
    value: float
    """Of the rule's parameter; for the quota, the number of tokens of this step."""
    masks: int
    """Masks left on the canvas of the row."""


def unmask(confidence_RB: Tensor, entropy_RB: Tensor | None, rows: Sequence[RowRule]) -> Tensor:
    """Mask (R, B) of the candidates that the rows unmask; ties go to the earlier position.

    Positions that are no candidates have confidence minus infinity. Each row with a candidate unmasks at
    least its most confident one.
    """
    ranked_RB, order_RB = confidence_RB.sort(dim=-1, descending=True, stable=True)
    ranked_entropy_RB = None if entropy_RB is None else entropy_RB.gather(-1, order_RB)
    rank_B = confidence_RB.new_ones(confidence_RB.shape[-1]).cumsum(0)
    count_R = confidence_RB.new_ones(len(rows))
    for rule in {row.rule.name: row.rule for row in rows}.values():
        selected = [index for index, row in enumerate(rows) if row.rule is rule]
        rows_S = order_RB.new_tensor(selected)
        candidates = RankedCandidates(
            ranked_RB[rows_S],
            None if ranked_entropy_RB is None else ranked_entropy_RB[rows_S],
            rank_B,
            confidence_RB.new_tensor([rows[index].masks for index in selected]),
        )
        value_S = confidence_RB.new_tensor([rows[index].value for index in selected])
        count_R[rows_S] = rule.count(candidates, value_S).to(count_R).clamp(min=1)
    unmasked_RB = (rank_B <= count_R[:, None]) & (ranked_RB > -math.inf)
    return unmasked_RB.new_zeros(unmasked_RB.shape).scatter_(-1, order_RB, unmasked_RB)


def _count_by_quota(candidates: RankedCandidates, tokens_S: Tensor) -> Tensor:  # noqa: ARG001
    return tokens_S


def _count_by_threshold(candidates: RankedCandidates, threshold_S: Tensor) -> Tensor:
    return (candidates.confidence_SB >= threshold_S[:, None]).sum(-1)


def _count_by_factor(candidates: RankedCandidates, factor_S: Tensor) -> Tensor:
    """Length of the longest prefix whose n-th confidence is at least 1 - factor / (n + 1)."""
    confident_SB = candidates.confidence_SB >= 1 - factor_S[:, None] / (candidates.rank_B + 1)
    count_S = confident_SB.cumprod(-1).sum(-1).clamp(min=1)
    # The released rule never leaves a single mask: it unmasks the last one along with the others.
    return count_S + (count_S == candidates.masks_S - 1)


def _count_by_entropy(candidates: RankedCandidates, bound_S: Tensor) -> Tensor:
    """Length of the longest prefix whose entropies, without the largest, sum to at most the bound."""
    assert candidates.entropy_SB is not None
    entropy_SB = candidates.entropy_SB
    joint_SB = entropy_SB.cumsum(-1) - entropy_SB.cummax(-1).values
    return (joint_SB <= bound_S[:, None]).cumprod(-1).sum(-1)


QUOTA = UnmaskingRule(
    "quota", {"steps": ParameterRange.count, "tokens_per_step": ParameterRange.count}, _count_by_quota
)
"""The rule of a row that sets no parameter; its value is one token."""

RULES = {
    rule.name: rule
    for rule in (
        QUOTA,
        UnmaskingRule("threshold", {"threshold": ParameterRange.probability}, _count_by_threshold, 0.9),
        UnmaskingRule("factor", {"factor": ParameterRange.positive}, _count_by_factor, 1.0),
        UnmaskingRule("entropy", {"entropy": ParameterRange.positive}, _count_by_entropy, 0.1, True),
    )
}


def rule_parameters() -> dict[str, ParameterRange]:
    """Parameters of all rules, and their ranges."""
    return {name: bounds for rule in RULES.values() for name, bounds in rule.parameters.items()}


def given_rule_parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are parameters of a rule; where there is more than one, they exclude each other."""
    return {name: settings[name] for name in rule_parameters() if settings.get(name) is not None}
