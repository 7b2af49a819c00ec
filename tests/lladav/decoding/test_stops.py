"""Stops are found among unmasked tokens, and the beginning of a possible stop is held back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.params import DecodingOptions
from lladav.decoding.sequence import DenoisingSequence
from lladav.decoding.stops import AnswerEnd, StopTexts, find_stop, partial_stop_length

MASK = 0
PIECES = ["", "a", "b", "ab", "c\n", "\nd", "\n", "xab", "\ncd"]
"""The text of ids 1 to 8."""


def bytes_of(token: int) -> bytes:
    return PIECES[token].encode()


def end_of(tokens: Sequence[int], *stops: str) -> AnswerEnd | None:
    return StopTexts(stops, bytes_of).find(np.array(tokens), np.array(tokens) == MASK)


def test_the_earliest_of_the_id_stops_counts() -> None:
    tokens = np.array([MASK, 5, 6, 1, 2, 5, 6])
    assert find_stop(tokens, [(1, 2), (5, 6)]) == AnswerEnd(1)
    assert find_stop(tokens, [(6, 5), tuple(range(9))]) is None


def test_the_beginning_of_an_id_stop_is_held_back() -> None:
    assert partial_stop_length(np.array([4, 1, 2]), [(1, 2, 3), (2, 7)]) == 2
    assert partial_stop_length(np.array([1, 2, 4]), [(1, 2, 3)]) == 0


@pytest.mark.parametrize(
    ("tokens", "stop", "end"),
    [
        ([1, 2, 6, 1], "\n", AnswerEnd(2)),
        ([1, 4, 1], "\n", AnswerEnd(2, 1)),
        ([7, 8, 1], "ab\nc", AnswerEnd(1, 2)),
        ([1, MASK, 2, 6], "b\n", AnswerEnd(2)),
        ([1, MASK, 6, 2], "a\n", None),
        ([3, 3], "abab", AnswerEnd(0)),
    ],
)
def test_a_stop_text_is_found_across_tokens(tokens: list[int], stop: str, end: AnswerEnd | None) -> None:
    assert end_of(tokens, stop) == end


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        ([b"a", b"", b"\n"], AnswerEnd(2)),
        ([b"", b"", b"\n"], AnswerEnd(2)),
        ([b"a", b"", b"b\n"], AnswerEnd(3, 1)),
        ([b"a", b"\n", b""], AnswerEnd(1)),
    ],
)
def test_tokens_without_text_before_a_stop_belong_to_the_answer(tokens: list[bytes], end: AnswerEnd) -> None:
    """They are not held back, so a stream has given them before the stop is found."""
    stops, ids = StopTexts(["\n"], tokens.__getitem__), range(len(tokens))
    assert stops.find(np.array(ids), np.zeros(len(ids), bool)) == end
    stop = tokens.index(next(each for each in tokens if b"\n" in each))
    assert stops.partial_length(ids[:stop]) == 0


@pytest.mark.parametrize(("tokens", "held"), [([1, 2], 0), ([1, 6], 1), ([1, 4], 1), ([1, 6, 6, 1], 2)])
def test_the_beginning_of_a_stop_text_is_held_back(tokens: list[int], held: int) -> None:
    assert StopTexts(["\n\nq", "\nab"], bytes_of).partial_length(tokens) == held


def test_a_stop_text_is_compared_only_up_to_the_length_of_the_answer() -> None:
    class Counted(str):
        slices = 0

        def __getitem__(self, key: SupportsIndex | slice) -> str:
            Counted.slices += 1
            return super().__getitem__(key)

    assert StopTexts([Counted("\n" * 10_000)], bytes_of).partial_length([1, 6]) == 1
    assert Counted.slices <= 4


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopTexts(["a", ""], bytes_of)


def test_a_sequence_ends_at_its_stop_text_and_fills_the_masks_before_it() -> None:
    options = DecodingOptions(max_tokens=4, refresh_interval=1, stop_texts=StopTexts(["b\n"], bytes_of))
    state = DenoisingSequence(3, options, MASK)
    state.fill(state.span, [1, 2], [3, 6], [0.5, 0.5])
    assert (state.end, state.excess, state.committed) == (2, 1, 0)
    assert state.candidates.tolist() == [0]
    state.fill(state.span, [0], [1], [0.5])
    assert state.done
    assert state.answer == [1, 3]
    assert (state.end, state.excess, state.committed) == (2, 1, 1)


def test_a_stop_that_begins_earlier_and_overlaps_the_one_that_ended_the_answer_counts() -> None:
    options = DecodingOptions(max_tokens=2, stop_texts=StopTexts(["ab", "b"], bytes_of))
    state = DenoisingSequence(1, options, MASK)
    state.fill(state.span, [1], [2], [0.5])
    assert (state.end, state.done) == (1, False)
    state.fill(state.span, [0], [1], [0.5])
    assert (state.end, state.done, state.answer) == (0, True, [])


EURO, SMILE = "€".encode(), "😀".encode()
BYTES = [b"", b"a", EURO[:1], EURO[1:], b"x", EURO[:2], EURO[2:], SMILE[:3], SMILE[3:] + b"y", b"\x80"]


def of_bytes(*stops: str) -> StopTexts:
    return StopTexts(stops, BYTES.__getitem__)


@pytest.mark.parametrize(
    ("tokens", "stop", "end"),
    [
        ([1, 2, 3, 4], "x", AnswerEnd(3)),
        ([1, 2, 3, 4], "€x", AnswerEnd(1)),
        ([1, 7, 8], "y", AnswerEnd(3, 1)),
        ([1, 7, 8], "😀", AnswerEnd(1)),
        ([1, 2, 4], "\ufffd", AnswerEnd(1)),
        ([1, 2, MASK], "\ufffd", None),
        ([1, 2], "\ufffd", AnswerEnd(1)),
        ([MASK, 3, 4], "\ufffd", None),
        ([MASK, 3, 4], "x", AnswerEnd(2)),
        ([MASK, 9, 9, 9, 9, 4], "\ufffd", AnswerEnd(4)),
        ([1, 2, 3, 5, 6, 4], "€€x", AnswerEnd(1)),
    ],
)
def test_a_stop_text_is_found_if_tokens_are_parts_of_characters(
    tokens: list[int], stop: str, end: AnswerEnd | None
) -> None:
    assert of_bytes(stop).find(np.array(tokens), np.array(tokens) == MASK) == end


@pytest.mark.parametrize(
    ("tokens", "stop", "held"),
    [
        ([1, 2], "a€", 2),
        ([1, 5], "€", 1),
        ([1, 2, 6], "€", 0),
        ([1, 2], "é", 0),
        ([1, 2], "\ufffdb", 1),
        ([1, 2, 3], "€x", 2),
        ([4, 1, 7], "x😀", 0),
        ([1, 4, 7], "x😀", 2),
    ],
)
def test_the_beginning_of_a_stop_text_may_end_inside_a_character(
    tokens: list[int], stop: str, held: int
) -> None:
    assert of_bytes(stop).partial_length(tokens) == held


TOKENS = st.lists(st.sampled_from(range(1, len(BYTES))), min_size=1, max_size=8)


@given(TOKENS, st.data())
def test_an_answer_ends_where_a_stop_begins_in_any_unmasking_order(
    tokens: list[int], data: st.DataObject
) -> None:
    """Committed text is never taken back and never contains a stop."""
    text = b"".join(map(BYTES.__getitem__, tokens)).decode(errors="replace")
    begin = data.draw(st.integers(0, max(0, len(text) - 1)))
    stops = [text[begin : begin + data.draw(st.integers(1, 3))] or "q", data.draw(st.sampled_from("ax€y"))]
    options = DecodingOptions(max_tokens=len(tokens), threshold=0.5, stop_texts=of_bytes(*stops))
    state, sent = DenoisingSequence(1, options, MASK), ""
    while not state.done:
        position = data.draw(st.sampled_from(state.candidates.tolist()))
        state.fill(state.span, [position], [tokens[position]], [0.5])
        committed = b"".join(BYTES[token] for token in state.answer[: state.committed])
        now = codecs.getincrementaldecoder("utf-8")("replace").decode(committed)
        assert now.startswith(sent)
        sent = now
    written = b"".join(BYTES[token] for token in state.answer)
    answer = written[: len(written) - state.excess].decode(errors="replace")
    assert text.startswith(answer)
    assert not any(stop in answer for stop in stops)
    assert answer == text or any(text[len(answer) :].startswith(stop) for stop in stops)
    assert answer.startswith(sent)


def test_a_mask_left_in_an_earlier_block_does_not_split_a_stop() -> None:
    options = DecodingOptions(max_tokens=4, block_length=2, stop_texts=StopTexts(["ab"], bytes_of))
    state = DenoisingSequence(1, options, MASK)
    for position in (0, 0):  # the model predicts a mask at position 1
        state.fill(state.span, [position], [1], [0.5])
    assert state.committed == 0
    state.fill(state.span, [2], [2], [0.5])
    assert (state.end, state.done, state.answer) == (0, True, [])
