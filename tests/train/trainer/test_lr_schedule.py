"""The learning rate of each step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from train.trainer.lr_schedule import lr_factor


def test_warms_up_from_zero_then_falls_to_zero_by_a_cosine() -> None:
    factors = [lr_factor(step, 1000, 0.03) for step in range(1000)]
    assert factors[0] == 0.0
    assert factors[15] == pytest.approx(0.5)
    assert factors[30] == 1.0
    assert factors[515] == pytest.approx(0.5, abs=1e-3)
    assert factors[999] < 1e-4
    assert all(a >= b for a, b in pairwise(factors[30:]))


def test_short_runs_have_at_least_one_step_of_warm_up() -> None:
    assert lr_factor(0, 10, 0.03) == 0.0
    assert lr_factor(1, 10, 0.03) == 1.0


def test_without_warm_up_the_first_step_is_full() -> None:
    assert lr_factor(0, 10, 0.0) == 1.0
