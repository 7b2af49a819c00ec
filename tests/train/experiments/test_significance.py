"""Intervals, paired tests and fits against formulas and published values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from train.experiments.significance import IntervalFit, PairedComparison, wilson_interval


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    correct, n = counts
    p, z = correct / n, float(norm.ppf(0.975))
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(correct, n) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_a_published_interval() -> None:
    """Newcombe (Statistics in Medicine 17, 1998), table I: 81 of 263 by the score method."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_no_questions_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def answers(**right: bool) -> dict[str, bool]:
    return right


def test_only_questions_that_one_side_answers_count() -> None:
    first, second = answers(a=True, b=True, c=False, d=False), answers(a=True, b=False, c=True, d=False)
    assert PairedComparison.of(first, second) == PairedComparison(only_first=1, only_second=1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_the_exact_binomial_one(first: int, second: int) -> None:
    n, fewer = first + second, min(first, second)
    expected = min(1.0, 2 * float(binom.cdf(fewer, n, 0.5)))
    assert PairedComparison(first, second).p_value == pytest.approx(expected)


def test_a_published_mcnemar_test() -> None:
    """statsmodels' documentation of ``mcnemar``: 86 against 150 discordant pairs, exact."""
    assert PairedComparison(86, 150).p_value == pytest.approx(3.716e-05, rel=1e-3)


@given(st.floats(1e-4, 1e-2), st.floats(1e-4, 1e-1))
def test_the_fit_finds_the_cost_of_a_cached_step_and_of_a_refresh(cached: float, refresh: float) -> None:
    intervals = [1, 2, 4, 8, 16, 32, 48]
    fit = IntervalFit.of(intervals, [cached + refresh / r for r in intervals])
    assert (fit.cached, fit.refresh) == pytest.approx((cached, refresh), rel=1e-6)
    assert fit.worst < 1e-6


def test_the_fit_of_the_papers_table_8() -> None:
    """r = 2/4/8/16/32/48: 10.6/16.9/24.0/29.8/34.2/35.5 tokens/s, which is about 25 ms + 137 ms / r."""
    speeds = [10.6, 16.9, 24.0, 29.8, 34.2, 35.5]
    fit = IntervalFit.of([2, 4, 8, 16, 32, 48], [1 / speed for speed in speeds])
    assert (fit.cached, fit.refresh) == pytest.approx((0.025, 0.137), rel=0.02)
    assert fit.worst < 0.016
