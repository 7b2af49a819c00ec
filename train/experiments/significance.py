"""Statistics of results: confidence intervals, paired comparison, and the fit of speeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

CONFIDENCE = 0.95


def wilson_interval(correct: int, questions: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of an accuracy; (0, 1) without questions."""
    if not questions:
        return 0.0, 1.0
    interval = binomtest(correct, questions).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Spread:
    """A mean over at least two measurements, their standard deviation, and the mean's 95 % t-interval."""

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """Mean and spread of measurements."""
        count, mean, deviation = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
        half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)
        return cls(mean, deviation, mean - half, mean + half)

    def text(self, digits: int, scale: float = 1) -> str:
        """The values times ``scale`` with this many decimals, as in ``53.41 ± 0.92 (53.23-53.59)``."""
        mean, deviation, low, high = (
            f"{scale * value:.{digits}f}" for value in (self.mean, self.deviation, self.low, self.high)
        )
        return f"{mean} ± {deviation} ({low}-{high})"


@dataclass(frozen=True)
class PairedComparison:
    """Two sets of answers to the same questions: how many only one of them answers correctly."""

    only_first: int
    only_second: int

    @classmethod
    def of(cls, first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedComparison:
        """Compare whether each question, by its id, is answered correctly; both have the same questions."""
        assert first.keys() == second.keys()
        return cls(
            sum(first[question] and not second[question] for question in first),
            sum(second[question] and not first[question] for question in first),
        )

    @property
    def p_value(self) -> float:
        """McNemar's exact two-sided test: the probability of such a difference if both are equally good."""
        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_first, discordant).pvalue) if discordant else 1.0


@dataclass(frozen=True)
class IntervalFit:
    """Seconds per token at refresh interval r: ``cached`` + ``refresh`` / r."""

    cached: float
    refresh: float
    worst: float
    """Largest relative difference from a measurement."""

    @classmethod
    def of(cls, intervals: Sequence[int], seconds: Sequence[float]) -> IntervalFit:
        """Least squares over measured seconds per token."""
        measured = np.array(seconds)
        terms = np.array([[1.0, 1 / interval] for interval in intervals])
        (cached, refresh), *_ = np.linalg.lstsq(terms, measured, rcond=None)
        fitted = terms @ np.array([cached, refresh])
        return cls(float(cached), float(refresh), float(np.abs(fitted / measured - 1).max()))
