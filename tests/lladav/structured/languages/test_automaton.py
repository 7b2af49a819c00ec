"""The most probable accepted sequence equals the best of all sequences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.structured.budget import unlimited
from lladav.structured.errors import SchemaError
from lladav.structured.languages.automaton import PADDING, TokenAutomaton
from lladav.structured.languages.token_classes import assemble
from lladav.structured.languages.vocabulary import Vocabulary
from tests.lladav.structured.languages.walks import Walker

TOKENS = 4


@st.composite
def automata(draw: st.DrawFn) -> TokenAutomaton:
    """Small automata over four tokens, each of them a class of its own."""
    states = draw(st.integers(1, 5))
    targets = draw(st.lists(st.integers(-1, states - 1), min_size=states * TOKENS, max_size=states * TOKENS))
    table = np.array(targets).reshape(states, TOKENS)
    accepting = np.array(draw(st.lists(st.booleans(), min_size=states, max_size=states)))
    sources, tokens = np.nonzero(table >= 0)
    try:
        edges = sources, tokens + 1, table[sources, tokens]
        return assemble(np.arange(1, TOKENS + 1), edges, 0, accepting, unlimited())
    except SchemaError:
        return draw(automata())


def best_of_all(walker: Walker, best_NK: np.ndarray, padding_N: np.ndarray) -> float:
    """Score of the best accepted sequence of tokens and padding, found by trying all."""
    class_of_V = walker.automaton.class_of_V
    scores = [-np.inf]
    for length in range(len(best_NK) + 1):
        rest = padding_N[length:].sum()
        for ids in product(range(TOKENS), repeat=length):
            if walker.accepts(ids):
                scores.append(sum(best_NK[n, class_of_V[token]] for n, token in enumerate(ids)) + rest)
    return max(scores)


@st.composite
def problems(draw: st.DrawFn) -> tuple[TokenAutomaton, np.ndarray, np.ndarray]:
    """An automaton and log-probabilities; some positions are written."""
    automaton = draw(automata())
    length = draw(st.integers(0, 4))
    scores = draw(st.lists(st.integers(-9, 0), min_size=9 * length, max_size=9 * length))
    table = np.array(scores, dtype=float).reshape(length, 9)
    best_NK, padding_N = table[:, : automaton.num_classes].copy(), table[:, 8].copy()
    best_NK[:, 0] = -np.inf
    for position in range(length):
        if draw(st.integers(0, 3)) == 0:  # written
            held = draw(st.integers(1, max(1, automaton.num_classes - 1)))
            best_NK[position], padding_N[position] = -np.inf, -np.inf
            if draw(st.booleans()) and held < automaton.num_classes:
                best_NK[position, held] = 0
            else:
                padding_N[position] = 0
    return automaton, best_NK, padding_N


@given(problems())
def test_the_most_probable_sequence_is_the_best_of_all(
    problem: tuple[TokenAutomaton, np.ndarray, np.ndarray],
):
    automaton, best_NK, padding_N = problem
    walker = Walker(automaton, Vocabulary([b"a", b"b", b"c", b"d"]))
    expected = best_of_all(walker, best_NK, padding_N)
    if expected == -np.inf:
        with pytest.raises(ValueError, match="no sequence"):
            automaton.most_probable(best_NK, padding_N)
        return
    classes_N, score = automaton.most_probable(best_NK, padding_N)
    assert score == pytest.approx(expected)
    end = int((classes_N != PADDING).sum())
    assert (classes_N[end:] == PADDING).all()
    assert walker.accepts([walker.tokens[int(name)][0] for name in classes_N[:end]])
    assert score == pytest.approx(best_NK[np.arange(end), classes_N[:end]].sum() + padding_N[end:].sum())


@given(automata())
def test_the_numbers_of_tokens_are_those_of_the_shortest_and_longest_sequences(automaton: TokenAutomaton):
    walker = Walker(automaton, Vocabulary([b"a", b"b", b"c", b"d"]))
    states = len(automaton.accepting_S)
    reached, lengths = {automaton.start}, []
    for length in range(2 * states + 1):  # a longer one repeats a state, and so does a sequence of 2S tokens
        if any(automaton.accepting_S[state] for state in reached):
            lengths.append(length)
        reached = {target for state in reached for target in walker.edges[state].values()}
    assert automaton.min_tokens == min(lengths)
    assert automaton.max_tokens == (max(lengths) if max(lengths) < states else None)
