"""Fractions of the data: which samples of which source, nested, and independent of other sources."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pipeline.selection import Selection
from lladav.config.comparison import check_unchanged
from lladav.config.loader import load
from lladav.config.sampling import Sampling, parse_sampling
from lladav.errors import UserError

COUNTS = st.lists(st.integers(0, 200), min_size=1, max_size=3)
FRACTIONS = st.integers(1, 100).map(lambda percent: percent / 100)


def sampling(text: str) -> Sampling:
    parsed = parse_sampling(text)
    assert parsed
    return parsed


def sources(*counts: int) -> np.ndarray:
    """The source of each row of sources with these numbers of samples, one after another."""
    return np.repeat(np.arange(len(counts), dtype=np.int16), counts)


def chosen(text: str | None, count: int, fraction: float = 1.0, seed: int = 0) -> list[int]:
    """The selected rows of one source."""
    return Selection((sampling(text) if text else None,), fraction, seed).rows(sources(count)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first:25%", [0, 1, 2]),  # rounded up, as released
        ("end:100%", list(range(10))),
        ("first:99", list(range(10))),
    ],
)
def test_first_and_end(text: str, rows: list[int]) -> None:
    assert chosen(text, 10) == rows


@given(COUNTS, FRACTIONS, FRACTIONS, st.integers(0, 5))
def test_a_smaller_part_is_a_subset_of_a_larger_one(
    counts: list[int], one: float, other: float, seed: int
) -> None:
    rows = [
        set(Selection((None,) * len(counts), fraction, seed).rows(sources(*counts)).tolist())
        for fraction in sorted((one, other))
    ]
    assert rows[0] <= rows[1]


@given(COUNTS, FRACTIONS)
def test_each_source_gives_the_same_fraction(counts: list[int], fraction: float) -> None:
    selection = Selection((None,) * len(counts), fraction, 0)
    expected = [math.ceil(round(fraction * 100) * count / 100) for count in counts]
    found = [(each.taken, each.available, each.in_epoch) for each in selection.counts(sources(*counts))]
    assert found == [(*pair, pair[0]) for pair in zip(expected, counts, strict=True)]
    assert len(selection.rows(sources(*counts))) == sum(expected)


@given(st.integers(1, 200), st.integers(1, 100), st.integers(0, 5))
def test_the_random_part_of_a_source_does_not_depend_on_other_sources(
    count: int, percent: int, seed: int
) -> None:
    alone = chosen(f"random:{percent}%", count, seed=seed)
    beside = Selection((None, sampling(f"random:{percent}%")), 1.0, seed).rows(sources(7, count))
    assert [row - 7 for row in beside.tolist() if row >= 7] == alone


def test_random_parts_depend_on_the_seed_and_never_change() -> None:
    assert chosen("random:4", 20, seed=42) == [1, 6, 12, 14]
    assert chosen("random:4", 20, seed=43) != chosen("random:4", 20, seed=42)


def test_the_fraction_applies_to_what_the_sampling_leaves() -> None:
    rows = chosen("end:20", 100, fraction=0.25)
    assert len(rows) == 5
    assert min(rows) >= 80


@pytest.mark.parametrize(
    "text", ["first", "first:0", "middle:3", "random:0%", "end:101%", "first:1.5", "random:-1"]
)
def test_another_form_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"data\.sources\.mammoth_si\.sample=.*as in random:10%$"):
        load(["stage=si", f"data.sources.mammoth_si.sample={text}"])


@pytest.mark.parametrize("change", ["data.fraction=0.5", "data.sources.mammoth_si.sample=first:10"])
def test_a_run_does_not_resume_with_another_part(change: str) -> None:
    with pytest.raises(UserError, match=r"was started with data\..*train\.run=<new name>"):
        check_unchanged("run", load(["stage=si"]), load(["stage=si", change]))


def test_the_part_of_a_source_that_the_stage_does_not_use_may_change() -> None:
    check_unchanged("run", load(["stage=si"]), load(["stage=si", "data.sources.mammoth_ov.sample=first:10"]))


def repeated(repeats: tuple[float, ...], *counts: int) -> np.ndarray:
    """The rows of an epoch of sources with these numbers of samples."""
    return Selection((None,) * len(counts), 1.0, 0, repeats).rows(sources(*counts))


def test_a_source_is_repeated() -> None:
    assert repeated((1.0, 2.0), 2, 3).tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert repeated((1.0, 1.0), 2, 3).tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from((0.1, 0.5, 1.0, 2.0, 2.3, 3.0)))))
def test_each_sample_is_repeated_as_often_as_its_source(sizes: list[tuple[int, float]]) -> None:
    counts, repeats = [count for count, _ in sizes], tuple(repeat for _, repeat in sizes)
    rows, total = repeated(repeats, *counts), sum(counts)
    assert len(set(rows.tolist())) == len(rows)
    times = np.bincount(rows % total, minlength=total) if total else np.zeros(0, int)
    for number, (count, repeat) in enumerate(sizes):
        own = times[sources(*counts) == number]
        assert own.sum() == math.ceil(round(repeat * count, 9))
        assert set(own.tolist()) <= {math.floor(repeat), math.floor(repeat) + 1}


def test_a_larger_repeat_adds_samples() -> None:
    assert set(repeated((1.2,), 10).tolist()) < set(repeated((1.7,), 10).tolist())
