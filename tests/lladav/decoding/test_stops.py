"""Stops are found among revealed tokens, and a beginning of one is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import pytest

from lladav.decoding.options import DecodingOptions
from lladav.decoding.sequence import SequenceState
from lladav.decoding.stops import End, StopTexts, beginning_of_stop, first_stop

MASK = 0
PIECES = ["", "a", "b", "ab", "c\n", "\nd", "\n", "xab", "\ncd"]
"""The text of ids 1 to 8."""


def text_of(ids: Sequence[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def test_the_earliest_of_the_id_stops_counts() -> None:
    tokens = np.array([MASK, 5, 6, 1, 2, 5, 6])
    assert first_stop(tokens, [(1, 2), (5, 6)]) == End(1)
    assert first_stop(tokens, [(6, 5), tuple(range(9))]) is None


def test_the_beginning_of_an_id_stop_is_held_back() -> None:
    assert beginning_of_stop(np.array([4, 1, 2]), [(1, 2, 3), (2, 7)]) == 2
    assert beginning_of_stop(np.array([1, 2, 4]), [(1, 2, 3)]) == 0


@pytest.mark.parametrize(
    ("tokens", "stop", "end"),
    [
        ([1, 2, 6, 1], "\n", End(2)),
        ([1, 4, 1], "\n", End(2, 1)),
        ([7, 8, 1], "ab\nc", End(1, 2)),
        ([1, MASK, 2, 6], "b\n", End(2)),
        ([1, MASK, 6, 2], "a\n", None),
        ([3, 3], "abab", End(0)),
    ],
)
def test_a_stop_text_is_found_across_tokens(tokens: list[int], stop: str, end: End | None) -> None:
    assert StopTexts([stop], text_of).end(np.array(tokens), MASK) == end


@pytest.mark.parametrize(("tokens", "held"), [([1, 2], 0), ([1, 6], 1), ([1, 4], 1), ([1, 6, 6, 1], 2)])
def test_the_beginning_of_a_stop_text_is_held_back(tokens: list[int], held: int) -> None:
    assert StopTexts(["\n\nq", "\nab"], text_of).beginning(tokens) == held


def test_no_more_of_a_stop_text_is_compared_than_the_answer_has() -> None:
    class Counted(str):
        slices = 0

        def __getitem__(self, key: SupportsIndex | slice) -> str:
            Counted.slices += 1
            return super().__getitem__(key)

    assert StopTexts([Counted("\n" * 10_000)], text_of).beginning([1, 6]) == 1
    assert Counted.slices == 2


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopTexts(["a", ""], text_of)


def test_a_sequence_ends_at_its_stop_text_and_fills_what_is_before() -> None:
    options = DecodingOptions(max_tokens=4, refresh_interval=1, stop_texts=StopTexts(["b\n"], text_of))
    state = SequenceState(3, options, MASK)
    state.fill(state.span, [1, 2], [3, 6], [0.5, 0.5])
    assert (state.end, state.excess, state.committed) == (2, 1, 0)
    assert state.competing.tolist() == [0]
    state.fill(state.span, [0], [1], [0.5])
    assert state.done
    assert state.answer == [1, 3]
