"""Long descriptions: true sentences that never repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.digits.descriptions import END, covered_share, describe, true_sentences, true_share

DIGITS = st.lists(st.integers(0, 9), min_size=1, max_size=3)


@given(DIGITS, st.integers(0, 2**32))
def test_a_description_has_every_true_sentence_once(digits: list[int], seed: int) -> None:
    _, text = describe(digits, np.random.default_rng(seed))
    assert sorted(text.removesuffix(".").split(END)) == sorted(set(true_sentences(digits)))
    assert true_share(text, digits) == covered_share(text, digits) == 1


@pytest.mark.parametrize(("digits", "count"), [([7], 5), ([7, 7], 8), ([1, 2, 3], 11)])
def test_longer_rows_of_digits_have_longer_descriptions(digits: list[int], count: int) -> None:
    assert len(true_sentences(digits)) == count


def test_sentences_of_three_digits() -> None:
    assert "The second digit is 8 and even" in true_sentences([3, 8, 1])
    assert "The second digit is larger than the third digit" in true_sentences([3, 8, 1])
    assert "The first digit and the second digit add up to 11" in true_sentences([3, 8, 1])


@pytest.mark.parametrize(
    ("text", "true", "covered"),
    [
        ("The largest digit is 8. The largest digit is 8.", 1, 1 / 11),
        ("The largest digit is 8. The largest digit is 9.", 0.5, 1 / 11),
        ("The largest digit is 8. The smallest digit is 1", 1, 2 / 11),
        ("The largest digit is 8 The largest digit is 8.", 0, 0),
        ("", 0, 0),
    ],
)
def test_sentences_are_checked_against_the_digits(text: str, true: float, covered: float) -> None:
    assert true_share(text, [3, 8, 1]) == true
    assert covered_share(text, [3, 8, 1]) == pytest.approx(covered)
