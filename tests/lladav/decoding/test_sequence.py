"""The state of one answer: spans, stops, blocks, infill, and committed tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.sequence import DenoisingSequence, Span

MASK, PROMPT = 60, 5


def state_of(**settings: Any) -> DenoisingSequence:
    return DenoisingSequence(
        PROMPT, DecodingOptions(**{"max_tokens": 8, "block_length": 4, **settings}), MASK
    )


def fill(state: DenoisingSequence, tokens: dict[int, int]) -> None:
    state.fill(state.span, list(tokens), list(tokens.values()), [0.5] * len(tokens))


def spans_until_done(state: DenoisingSequence) -> list[Span]:
    spans = []
    while not state.done:
        spans.append(state.span)
        fill(state, {int(position): 1 for position in state.candidates[: int(state.rule.value)]})
    return spans


@pytest.mark.parametrize(
    ("settings", "refreshes", "cached"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7], set()),
        ({"refresh_interval": 2}, [0, 2, 4, 6], {(5, 14), (9, 14)}),
        ({"refresh_interval": 3}, [0, 3, 4, 7], {(5, 14), (9, 14)}),
        ({"refresh_interval": None}, [0, 4], {(5, 14), (9, 14)}),
        ({"refresh_interval": None, "cache": Cache.dual}, [0, 4], {(5, 9), (9, 13)}),
        ({"refresh_interval": None, "cache": Cache.none}, [0, 1, 2, 3, 4, 5, 6, 7], set()),
    ],
)
def test_refreshes_restart_with_each_block(
    settings: dict[str, Any], refreshes: list[int], cached: set[tuple[int, int]]
) -> None:
    spans = spans_until_done(state_of(suffix=(7,), **settings))
    assert [step for step, span in enumerate(spans) if span.refresh] == refreshes
    assert {(span.start, span.end) for span in spans if span.refresh} == {(0, 14)}
    assert {(span.start, span.end) for span in spans if not span.refresh} == cached


def test_candidates_are_masks_of_the_block_before_the_end() -> None:
    state = state_of(stop=((3,),))
    assert state.candidates.tolist() == [0, 1, 2, 3]
    fill(state, {2: 3})
    assert state.candidates.tolist() == [0, 1]
    fill(state, {0: 1, 1: 1})
    assert state.done
    assert state.answer == [1, 1]


def test_infill_stays_and_a_full_block_is_skipped() -> None:
    state = state_of(infill={0: 9, 1: 8, 2: 7, 3: 6, 5: 5}, suffix=(4,))
    assert state.candidates.tolist() == [4, 6, 7]
    assert state.span.refresh
    fill(state, {4: 1, 6: 2, 7: 3})
    assert state.answer == [9, 8, 7, 6, 1, 5, 2, 3, 4]


def test_a_stop_in_the_infill_ends_the_answer_there() -> None:
    state = state_of(infill={2: 3}, stop=((3,),))
    fill(state, {0: 1, 1: 1})
    assert state.done
    assert state.answer == [1, 1]


def test_a_stop_may_begin_before_one_that_was_found_earlier() -> None:
    state = state_of(stop=((3, 3),))
    fill(state, {1: 3, 2: 3})
    assert state.end == 1
    fill(state, {0: 3})
    assert state.answer == []


def test_the_first_of_two_kinds_of_ends_counts() -> None:
    state = state_of(stop=((3,), (4,)), block_length=8)
    fill(state, {5: 4})
    assert state.candidates.tolist() == [0, 1, 2, 3, 4]
    fill(state, {0: 1, 2: 3})
    assert (state.candidates.tolist(), state.committed) == ([1], 1)
    fill(state, {1: 2})
    assert state.done
    assert state.answer == [1, 2]


def test_a_stop_longer_than_the_canvas_is_never_found() -> None:
    assert len(spans_until_done(state_of(stop=((1,) * 9,)))) == 8


def test_a_block_ends_after_its_steps() -> None:
    state = state_of(tokens_per_step=2)
    fill(state, {0: MASK, 1: MASK})
    fill(state, {2: MASK, 3: MASK})
    assert state.candidates.tolist() == [4, 5, 6, 7]


def test_the_beginning_of_a_possible_stop_is_not_committed() -> None:
    state = state_of(stop=((1, 2, 3),), block_length=8)
    fill(state, {0: 5, 1: 1, 2: 2})
    assert state.committed == 1
    fill(state, {3: 9})
    assert state.committed == 4


@given(st.data())
def test_committed_tokens_never_change(data: st.DataObject) -> None:
    stop = data.draw(st.sampled_from([(), ((1,),), ((1,), (2,)), ((1, 2),), ((2, 2, 1), (3,))]))
    block = data.draw(st.sampled_from([1, 2, 4, 8]))
    state = state_of(stop=stop, block_length=block, threshold=0.5)
    committed: list[int] = []
    while not state.done:
        candidates = state.candidates.tolist()
        positions = data.draw(st.lists(st.sampled_from(candidates), min_size=1, unique=True))
        fill(state, {position: data.draw(st.integers(1, 3)) for position in positions})
        now = state.answer[: state.committed]
        assert now[: len(committed)] == committed
        assert MASK not in now
        committed = now
    assert committed == state.answer
    assert not np.any(np.array(state.answer) == MASK)
