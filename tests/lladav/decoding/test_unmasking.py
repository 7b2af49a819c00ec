"""The rules by which a step reveals proposals."""

from __future__ import annotations

from typing import Any

import torch

from lladav.decoding.params import DecodingOptions
from lladav.decoding.sequence import SequenceState
from lladav.decoding.unmasking import UnmaskingRules, revealed

NEVER = float("-inf")
MASK = 60


def picked(
    confidence: list[list[float]], *settings: dict[str, Any], entropy: list[list[float]] | None = None
) -> list[list[int]]:
    """Places revealed in each row by the rule of its settings, on a canvas of nine masks."""
    options = [DecodingOptions(**{"max_tokens": 9, **each}) for each in settings]
    rules = UnmaskingRules.of([SequenceState(1, each, MASK) for each in options])
    confidence_RB = torch.tensor(confidence, dtype=torch.float64)
    entropy_RB = torch.zeros_like(confidence_RB) if entropy is None else torch.tensor(entropy).double()
    return [row.nonzero().flatten().tolist() for row in revealed(confidence_RB, entropy_RB, rules)]


def test_quota_reveals_the_most_confident() -> None:
    rows = [[0.2, 0.9, NEVER, 0.5], [0.3, 0.3, 0.3, NEVER]]
    assert picked(rows, {"tokens_per_step": 2}, {"tokens_per_step": 2}) == [[1, 3], [0, 1]]


def test_ties_go_to_the_earlier_place() -> None:
    assert picked([[0.5] * 500], {"max_tokens": 20, "tokens_per_step": 20}) == [list(range(20))]


def test_threshold_reveals_all_above_it_and_always_one() -> None:
    rows = [[0.2, 0.9, NEVER, 0.5], [0.3, 0.2, NEVER, NEVER]]
    assert picked(rows, {"threshold": 0.5}, {"threshold": 0.5}) == [[1, 3], [0]]


def test_factor_reveals_the_longest_confident_run_and_always_one() -> None:
    # With factor 1 the n-th most confident needs 1 - 1 / (n + 1): 1/2, 2/3, 3/4, ...
    rows = [[0.7, 0.9, 0.7, NEVER], [0.1, 0.05, 0.02, NEVER]]
    assert picked(rows, {"factor": 1.0}, {"factor": 1.0}) == [[0, 1], [0]]


def test_factor_never_leaves_a_single_mask() -> None:
    row = [[0.9, 0.1, NEVER]]
    assert picked(row, {"factor": 1.0, "max_tokens": 2}) == [[0, 1]]
    assert picked(row, {"factor": 1.0, "max_tokens": 3}) == [[0]]


def test_entropy_reveals_while_the_sum_but_the_largest_is_within_the_bound() -> None:
    rows = [[0.9, 0.8, 0.7, 0.6]] * 3
    entropy = [[0.1, 0.2, 0.3, 0.4]] * 3
    bounds = [{"entropy": bound} for bound in (0.05, 0.15, 0.35)]
    assert picked(rows, *bounds, entropy=entropy) == [[0], [0, 1], [0, 1, 2]]


def test_rows_follow_rules_of_their_own() -> None:
    rows = [[0.6, 0.5, 0.4]] * 3
    assert picked(rows, {"threshold": 0.45}, {"tokens_per_step": 1}, {"factor": 2.5}) == [
        [0, 1],
        [0],
        [0, 1, 2],
    ]


def test_rows_without_competitors_reveal_nothing() -> None:
    assert picked([[NEVER] * 3] * 2, {"threshold": 0.5}, {"factor": 1.0}) == [[], []]
