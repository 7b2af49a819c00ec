"""Repetition measures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from lladav.analysis.repetition import diversity, repeated_share, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "."]), max_size=30).map(" ".join)


@given(TEXTS, st.integers(1, 5))
def test_shares_follow_from_the_ngrams_of_scikit_learn(text: str, n: int) -> None:
    units = words(text)
    if len(units) < n:
        assert repeated_share(units, n) == 0
        return
    counter = CountVectorizer(ngram_range=(n, n), token_pattern=r"\w+|[^\w\s]", lowercase=False)
    ngrams = counter.build_analyzer()(text)
    assert repeated_share(units, n) == pytest.approx(1 - len(set(ngrams)) / len(ngrams))


def test_a_loop_repeats_nearly_everything() -> None:
    units = words("the digit is 3. " * 20)
    assert repeated_share(units, 4) == pytest.approx(1 - 5 / 97)
    assert diversity(units) < 0.001


def test_a_text_without_repeated_pairs() -> None:
    units = words("The first digit is 3, the second one 8.")
    assert repeated_share(units, 2) == 0
    assert diversity(units) == 1


def test_words_and_punctuation() -> None:
    assert words("It's 3+8=11, naïve.") == ["It", "'", "s", "3", "+", "8", "=", "11", ",", "naïve", "."]
