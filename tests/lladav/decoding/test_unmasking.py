"""Unmasking rules, and how a rule is added."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.config.introspection import field_docs
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.decoding.sequence import DenoisingSequence
from lladav.decoding.unmasking import (
    RULES,
    ParameterRange,
    RankedCandidates,
    UnmaskingOptions,
    UnmaskingRule,
    rule_parameters,
    unmask,
)
from lladav.errors import UserError
from tests.lladav.build import text_sample, tiny_model

NEVER = float("-inf")
MASK = 60


def unmasked(
    confidence: list[list[float]], *settings: dict[str, Any], entropy: list[list[float]] | None = None
) -> list[list[int]]:
    """Positions that each row unmasks with the rule of its settings, on a canvas of nine masks."""
    options = [DecodingOptions(**{"max_tokens": 9, **each}) for each in settings]
    rows = [DenoisingSequence(1, each, MASK).rule for each in options]
    confidence_RB = torch.tensor(confidence, dtype=torch.float64)
    entropy_RB = None if entropy is None else torch.tensor(entropy).double()
    return [row.nonzero().flatten().tolist() for row in unmask(confidence_RB, entropy_RB, rows)]


def test_quota_unmasks_the_most_confident() -> None:
    rows = [[0.2, 0.9, NEVER, 0.5], [0.3, 0.3, 0.3, NEVER]]
    assert unmasked(rows, {"tokens_per_step": 2}, {"tokens_per_step": 2}) == [[1, 3], [0, 1]]


def test_ties_go_to_the_earlier_position() -> None:
    assert unmasked([[0.5] * 500], {"max_tokens": 20, "tokens_per_step": 20}) == [list(range(20))]


def test_threshold_unmasks_all_above_it_and_always_one() -> None:
    rows = [[0.2, 0.9, NEVER, 0.5], [0.3, 0.2, NEVER, NEVER]]
    assert unmasked(rows, {"threshold": 0.5}, {"threshold": 0.5}) == [[1, 3], [0]]


def test_factor_unmasks_the_longest_confident_prefix_and_always_one() -> None:
    # With factor 1 the n-th most confident needs 1 - 1 / (n + 1): 1/2, 2/3, 3/4, ...
    rows = [[0.7, 0.9, 0.7, NEVER], [0.1, 0.05, 0.02, NEVER]]
    assert unmasked(rows, {"factor": 1.0}, {"factor": 1.0}) == [[0, 1], [0]]


def test_factor_never_leaves_a_single_mask() -> None:
    row = [[0.9, 0.1, NEVER]]
    assert unmasked(row, {"factor": 1.0, "max_tokens": 2}) == [[0, 1]]
    assert unmasked(row, {"factor": 1.0, "max_tokens": 3}) == [[0]]


def test_entropy_unmasks_while_the_sum_without_the_largest_is_within_the_bound() -> None:
    rows = [[0.9, 0.8, 0.7, 0.6]] * 3
    entropy = [[0.1, 0.2, 0.3, 0.4]] * 3
    bounds = [{"entropy": bound} for bound in (0.05, 0.15, 0.35)]
    assert unmasked(rows, *bounds, entropy=entropy) == [[0], [0, 1], [0, 1, 2]]


def test_each_row_follows_its_own_rule() -> None:
    rows = [[0.6, 0.5, 0.4]] * 4
    settings = {"threshold": 0.45}, {"tokens_per_step": 1}, {"factor": 2.5}, {"threshold": 0.55}
    assert unmasked(rows, *settings) == [[0, 1], [0], [0, 1, 2], [0]]


def test_rows_without_candidates_unmask_nothing() -> None:
    assert unmasked([[NEVER] * 3] * 2, {"threshold": 0.5}, {"factor": 1.0}) == [[], []]


@dataclass(frozen=True)
class ExampleOptions(DecodingOptions):
    """Options with the parameter of one more rule, which belongs in ``UnmaskingOptions``."""

    share: float | None = None
    """Unmask this share of the masks that are left."""


def count_by_share(candidates: RankedCandidates, share_S: Tensor) -> Tensor:
    return (share_S * candidates.masks_S).ceil()


@pytest.fixture
def example_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = UnmaskingRule("share", {"share": ParameterRange.probability}, count_by_share)
    monkeypatch.setitem(RULES, rule.name, rule)


@pytest.mark.usefixtures("example_rule")
def test_a_rule_in_the_table_decodes() -> None:
    options = ExampleOptions(max_tokens=8, share=0.5)
    (answer,) = decode(tiny_model(std=0.3), [text_sample("p", 5)], options)
    assert answer.forwards == 4  # 8 masks, then 4, 2 and 1
    assert MASK not in answer.tokens


@pytest.mark.usefixtures("example_rule")
def test_a_rule_in_the_table_is_checked() -> None:
    with pytest.raises(UserError, match=r"share is 1.5; use \(0, 1\]"):
        ExampleOptions(share=1.5)
    with pytest.raises(UserError, match="threshold and share exclude each other"):
        ExampleOptions(share=0.5, threshold=0.5)


def test_every_parameter_of_the_table_is_a_documented_option(root: Path) -> None:
    docs = field_docs(UnmaskingOptions)
    assert set(rule_parameters()) == {field.name for field in fields(UnmaskingOptions)} == set(docs)
    for file in ("decoding.md", "serving.md"):
        text = (root / "docs" / file).read_text(encoding="utf-8")
        assert all(f"`{name}`" in text for name in rule_parameters()), file


def test_rule_names_and_defaults_are_documented(root: Path) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `reveal` "))
    for rule in RULES.values():
        assert f"`{rule.name}`" + ("" if rule.default is None else f" ({rule.default}") in row


def test_options_load_without_torch(root: Path) -> None:
    program = "import sys, lladav.decoding.params; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
