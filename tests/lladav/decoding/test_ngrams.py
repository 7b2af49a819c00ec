"""Suppression of repeated n-grams, compared with its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.ngrams import repeating_tokens
from lladav.decoding.params import DecodingOptions
from lladav.decoding.sequence import DenoisingSequence
from tests.lladav.build import TOKENS, text_sample
from tests.lladav.decoding.test_engine import MODEL, one

MASK, VOCABULARY = TOKENS.mask_id, 3


def ngrams(tokens: list[int], size: int) -> list[tuple[int, ...]]:
    """All n-grams without ``MASK``."""
    windows = [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
    return [each for each in windows if MASK not in each]


@given(st.lists(st.sampled_from([0, 1, 2, MASK]), max_size=14), st.integers(1, 4))
def test_a_token_is_suppressed_if_it_makes_an_ngram_occur_twice(tokens: list[int], size: int) -> None:
    masks = [place for place, token in enumerate(tokens) if token == MASK]
    canvas = np.array(tokens, np.int64)
    found = repeating_tokens(canvas, canvas != MASK, masks, size)
    for place in masks:
        for token in range(VOCABULARY):
            filled = [*tokens[:place], token, *tokens[place + 1 :]]
            starts = range(max(0, place - size + 1), min(place, len(tokens) - size) + 1)
            new = [tuple(filled[start : start + size]) for start in starts]
            repeats = any(ngrams(filled, size).count(each) > 1 for each in new)
            assert (token in found.get(place, [])) == repeats


def test_only_candidates_are_looked_at() -> None:
    canvas = np.array([1, MASK, 2, MASK])
    assert repeating_tokens(canvas, canvas != MASK, {3}, 1) == {3: [1, 2]}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_length": 4, "refresh_interval": 3},
        {"temperature": 0.5},
        {"tokens_per_step": 5, "block_length": 12},
        {"threshold": 0.02, "refresh_interval": None},
        {"entropy": 9.0},
    ],
)
def test_no_ngram_occurs_twice_and_no_mask_is_left(settings: dict[str, Any], size: int) -> None:
    options = DecodingOptions(max_tokens=24, forbidden=(TOKENS.mask_id,), **settings)
    free = one(MODEL, text_sample("p", 6), options)
    assert len(set(free.tokens)) < 24
    answer = one(MODEL, text_sample("p", 6), replace(options, no_repeat_ngram=size))
    assert len(set(ngrams(answer.tokens, size))) == len(ngrams(answer.tokens, size)) == 25 - size
    assert TOKENS.mask_id not in answer.tokens
    assert answer.forwards <= 24


def test_a_token_that_repeats_a_more_confident_one_of_its_step_is_left_to_a_later_step() -> None:
    state = DenoisingSequence(1, DecodingOptions(max_tokens=4, tokens_per_step=4, no_repeat_ngram=1), MASK)
    assert state.writable([0, 1, 2], [7, 5, 7], [0.2, 0.3, 0.4]) == [1, 2]
    state.fill(state.span, [1, 2], [5, 7], [0.3, 0.4])
    assert state.candidates.tolist() == [0, 3]


def test_infill_counts() -> None:
    options = DecodingOptions(max_tokens=4, no_repeat_ngram=1, infill={0: 5})
    answer = one(MODEL, text_sample("p", 6), options).tokens
    assert answer[0] == 5
    assert len(set(answer)) == 4


def test_tokens_after_a_stop_do_not_count() -> None:
    state = DenoisingSequence(1, DecodingOptions(max_tokens=4, no_repeat_ngram=1, stop=((3,),)), MASK)
    state.fill(state.span, [1, 2, 3], [4, 3, 5], [0.5] * 3)
    assert state.suppressed == {0: [4]}
