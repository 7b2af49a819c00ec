"""Relaxed automata: they accept more, and the most probable sequence stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.structured.languages.automaton import PADDING, TokenAutomaton
from lladav.structured.languages.relaxation import Relaxation, most_probable, relaxation_of
from tests.lladav.decoding.outlines import automata, automaton_of


def scores(automaton: TokenAutomaton, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return -rng.exponential(3, (length, automaton.num_classes)), -rng.exponential(3, length)


def counting(limit: int, tokens: int) -> TokenAutomaton:
    """Sums of numbers from 1 to ``tokens`` up to ``limit``."""
    edges = {
        total: {token: total + token for token in range(1, min(tokens, limit - total) + 1)}
        for total in range(limit + 1)
    }
    return automaton_of(edges, range(limit + 1))


@given(automata(), st.integers(0, 4), st.integers(0, 10**6))
def test_the_relaxed_sequence_is_at_least_as_probable_and_accepted_ones_are_the_same(
    automaton: TokenAutomaton, spare: int, seed: int
) -> None:
    relaxation = Relaxation(automaton)
    best_NK, padding_N = scores(automaton, automaton.min_tokens + spare, seed)
    exact_N, exact = automaton.most_probable(best_NK, padding_N)
    relaxed_N, relaxed = relaxation.merged.most_probable(best_NK, padding_N)
    assert relaxation.accepts(exact_N)
    assert relaxed >= exact - 1e-9
    assert relaxation.accepts(relaxed_N) == (relaxed == pytest.approx(exact))


@pytest.mark.parametrize("limit", [100, 400])
def test_large_automata_give_the_same_sequences(limit: int) -> None:
    """Also where the relaxed sequence has too large a sum: 16 tokens of up to 40 may exceed 100."""
    automaton = counting(limit, 40)
    for seed in range(10):
        best_NK, padding_N = scores(automaton, 16, seed)
        found_N, score = most_probable(automaton, best_NK, padding_N)
        expected_N, expected = automaton.most_probable(best_NK, padding_N)
        assert score == pytest.approx(expected)
        assert (found_N == expected_N).all()


def test_counting_states_are_merged() -> None:
    automaton = counting(300, 40)
    relaxation = relaxation_of(automaton)
    assert relaxation is not None
    assert len(relaxation.merged.accepting_S) == 1
    assert relaxation.accepts(np.array([1, 1, PADDING]))
    assert relaxation_of(counting(8, 3)) is None
