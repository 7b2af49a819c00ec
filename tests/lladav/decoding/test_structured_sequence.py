"""Answers that follow an outline: always permitted, however they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lladav.decoding.constraints import OpeningScores
from lladav.decoding.engine import decode
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.results import Update
from lladav.decoding.sequence import Span
from lladav.decoding.structured_sequence import CHOICE_WINDOW, StructuredSequence
from lladav.errors import UserError
from lladav.structured.outline import Fixed, Outline, Slot
from tests.lladav.build import TOKENS, text_sample, tiny_model, variant
from tests.lladav.decoding.outlines import PADDING, RECORDS, TreeOutline, outlines, repeated, words
from tests.lladav.decoding.test_engine import engine_of

MODEL = tiny_model(std=0.3)
PROMPT = 5
NUMBER = Slot(repeated(1, 2, 3), 2)
WORD = Slot(words((4, 5), (8,)), 3)

RULES: list[dict[str, Any]] = [
    {}, {"tokens_per_step": 3}, {"steps": 2}, {"threshold": 0.3}, {"factor": 1.0}, {"entropy": 0.5},
]  # fmt: skip


def tree(*pieces: int | Slot, then: Sequence[TreeOutline] = ()) -> TreeOutline:
    return TreeOutline([Fixed((each,)) if isinstance(each, int) else each for each in pieces], then)


def state_of(outline: Outline, max_tokens: int = 30, **settings: Any) -> StructuredSequence:
    options = DecodingOptions(max_tokens=max_tokens, outline=outline, **settings)
    return StructuredSequence(PROMPT, options, TOKENS)


def fill(state: StructuredSequence, tokens: dict[int, int]) -> None:
    state.fill(state.span, list(tokens), list(tokens.values()), [0.5] * len(tokens))


def choose(state: StructuredSequence, *elements: Any) -> None:
    """A choice step in which the model prefers these elements."""
    scores = torch.tensor([1.0 if each.element in elements else 0.0 for each in state.constraint.openings])
    state.choose(state.span, OpeningScores(scores.log_softmax(0).numpy(), torch.zeros(len(scores)).numpy()))


@given(st.lists(outlines(), min_size=1, max_size=3), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_answers_follow_their_outlines(found: list[TreeOutline], data: st.DataObject) -> None:
    """Under all rules and caches, at any temperature, in one batch."""
    engine, own = engine_of(max_rows=2), dict[str, TreeOutline]()
    for number, outline in enumerate(found):
        options = DecodingOptions(
            max_tokens=outline.longest + 2 + outline.longest % 2,
            outline=outline,
            temperature=data.draw(st.sampled_from([0.0, 2.0])),
            top_p=data.draw(st.sampled_from([1.0, 0.5])),
            cache=data.draw(st.sampled_from(list(Cache))),
            refresh_interval=data.draw(st.sampled_from([1, 2, None])),
            **data.draw(st.sampled_from(RULES)),
        )
        own[f"{number}"] = outline
        engine.submit(text_sample(f"{number}", 5), options)
    answers = {update.id: update.answer for update in _updates(engine) if update.answer}
    assert answers.keys() == own.keys()
    for name, answer in answers.items():
        assert own[name].permits(answer.tokens), answer.tokens
        assert answer.stopped


def _updates(engine: Any) -> list[Update]:
    updates: list[Update] = []
    while engine.busy:
        updates += engine.step()
    assert all(update.error is None for update in updates)
    return updates


def test_fixed_tokens_need_no_forward_and_are_reported() -> None:
    engine = engine_of()
    outline = tree(7, then=[tree(8, then=[tree(9)])])
    engine.submit(text_sample("p", 5), DecodingOptions(max_tokens=4, outline=outline))
    (update,) = _updates(engine)
    assert update.answer is not None
    assert (update.answer.tokens, update.answer.forwards, update.committed) == ([7, 8, 9], 0, 3)
    assert (update.unmasked.positions, update.unmasked.tokens) == ([0, 1, 2], [7, 8, 9])


def test_updates_have_every_token_once_and_committed_ones_in_time() -> None:
    engine, canvas = engine_of(), dict[int, int]()
    options = DecodingOptions(max_tokens=25, outline=RECORDS, tokens_per_step=2)
    engine.submit(text_sample("p", 6), options)
    committed = [0]
    updates = _updates(engine)
    for number, update in enumerate(updates, start=1):
        assert update.step == number
        assert not canvas.keys() & set(update.unmasked.positions)
        canvas |= dict(zip(update.unmasked.positions, update.unmasked.tokens, strict=True))
        assert set(range(update.committed)) <= canvas.keys()
        committed.append(update.committed)
    answer = updates[-1].answer
    assert answer is not None
    assert answer.tokens == [canvas[position] for position in range(len(canvas))]
    assert committed == sorted(committed)
    assert committed[-1] == updates[-1].end == len(answer.tokens)


def test_masks_of_slots_are_filled_before_the_next_choice() -> None:
    state = state_of(tree(10, NUMBER, 11, WORD, then=[tree(12), tree(13)]))
    assert state.length == PROMPT + 7
    assert state.candidates.tolist() == [1, 2, 4, 5, 6]
    assert (state.outputs - state.candidates).tolist() == [PROMPT] * 5
    assert [each.tokens_N.tolist() for each in state.constraint.slots] == [[60, 60], [60, 60, 60]]
    fill(state, {2: PADDING[0], 4: 8})
    first, second = state.constraint.slots
    assert (first.rows, first.positions_R.tolist()) == (range(1), [0])
    assert (second.rows, second.positions_R.tolist()) == (range(1, 3), [1, 2])
    assert (state.committed, state.choosing) == (1, False)
    fill(state, {1: 3, 5: PADDING[0], 6: PADDING[1]})
    assert (state.committed, state.choosing, state.candidates.tolist()) == (7, True, [7])
    choose(state, 13)
    assert (state.done, state.answer[-1], state.end, state.forwards) == (True, 13, 8, 3)


def test_choices_get_the_values_of_slots_without_padding() -> None:
    found = list[Sequence[Sequence[int]]]()

    class Recorded(TreeOutline):
        def choices(self, values: Sequence[Sequence[int]]) -> Sequence[Outline]:
            found.append(values)
            return super().choices(values)

    state = state_of(Recorded([WORD, Fixed((9,)), NUMBER], [tree(9)]))
    fill(state, {0: 8, 1: PADDING[0], 2: PADDING[1], 4: 1, 5: 2})
    assert found == [[[8], [1, 2]]]
    assert state.done


def test_alternatives_share_their_beginning_also_its_slots() -> None:
    """The model chooses at the first difference, after the slot before it is full."""
    state = state_of(tree(10, then=[tree(11, NUMBER, 12, WORD), tree(11, NUMBER, 13)]))
    assert (state.length - PROMPT, state.choosing, state.candidates.tolist()) == (4, False, [2, 3])
    fill(state, {2: 1, 3: 2})
    assert (state.choosing, state.length - PROMPT) == (True, 4 + CHOICE_WINDOW)
    choose(state, 12)
    assert (state.candidates.tolist(), state.length - PROMPT) == ([5, 6, 7], 8)


def test_forks_within_the_window_take_one_step() -> None:
    leaves = [tree(11, 12, 14, 15), tree(11, 12, 14, 16), tree(11, 13), tree(9)]
    state = state_of(tree(10, then=leaves))
    assert state.candidates.tolist() == [1, 2, 3, 4]
    assert len(state.constraint.openings) == 6
    choose(state, 11, 12, 16)
    assert (state.done, state.answer, state.forwards) == (True, [10, 11, 12, 14, 16], 1)
    assert (state.confidence_G[[0, 3]] == 1).all()
    assert (state.confidence_G[[1, 2, 4]] < 1).all()


def test_the_window_ends_with_the_canvas() -> None:
    state = state_of(tree(10, then=[tree(11), tree(12, NUMBER)]), max_tokens=4)
    assert state.length == PROMPT + 4


def test_the_end_of_an_answer_is_an_alternative() -> None:
    state = state_of(tree(10, then=[tree(11, 12), tree(11)]))
    assert [each.element for each in state.constraint.openings] == [12, None]
    choose(state, None)
    assert (state.done, state.answer) == (True, [10, 11])


@pytest.mark.parametrize("cache", [Cache.prefix, Cache.dual])
def test_refreshes_count_from_choices_and_blocks(cache: Cache) -> None:
    outline = tree(10, Slot(repeated(1), 8), then=[tree(11, NUMBER), tree(12, Slot(repeated(1), 3))])
    state = state_of(outline, refresh_interval=3, block_length=5, cache=cache)
    spans = list[Span]()
    while not state.done:
        spans.append(state.span)
        choose(state, 12) if state.choosing else fill(state, {int(state.candidates[0]): 1})
    dual = cache is Cache.dual
    assert [span.refresh for span in spans[:9]] == [True, False, False, True, True, False, False, True, True]
    assert spans[1] == Span(PROMPT + 1, PROMPT + (5 if dual else 9), False)
    assert spans[5] == Span(PROMPT + 5, PROMPT + 9, False)
    assert spans[8] == Span(0, PROMPT + 9 + CHOICE_WINDOW, True)
    # After a choice, everything that is new behind the last segment is forwarded.
    assert spans[9] == Span(PROMPT + 9, PROMPT + 13, False)


def test_a_quota_is_the_same_at_every_step() -> None:
    outline = tree(Slot(repeated(1), 6), then=[tree(10), tree(11)])
    for quota, values in (({"steps": 15}, [2, 2]), ({"tokens_per_step": 4}, [4, 4])):
        state, found = state_of(outline, **quota), []
        for _ in range(2):
            found.append(state.rule.value)
            fill(state, {int(state.candidates[0]): 1})
        assert found == values


@pytest.mark.parametrize("settings", [{"stop": ((3,),)}, {"suffix": (1,)}, {"infill": {0: 1}}])
def test_options_that_an_outline_excludes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"outline excludes {next(iter(settings))}"):
        DecodingOptions(max_tokens=8, outline=RECORDS, **settings)


def test_a_chat_with_an_outline_has_no_stop() -> None:
    assert DecodingOptions.for_chat(TOKENS, outline=RECORDS).stop == ()


def test_padding_may_be_forbidden_elsewhere() -> None:
    outline = tree(Slot(words((), (1,)), 4), 9)
    options = DecodingOptions(max_tokens=6, outline=outline, forbidden=(1, TOKENS.eos, TOKENS.eot))
    (answer,) = decode(MODEL, [text_sample("p", 5)], options)
    assert set(answer.tokens[:4]) <= set(PADDING)
    assert answer.text(lambda token: b"" if token in PADDING else b"x") == "x"


@pytest.mark.parametrize("outline", [tree(NUMBER), tree(9, then=[tree(1), tree(2)])])
def test_logits_that_are_not_finite_end_the_request(outline: TreeOutline) -> None:
    model = variant(MODEL)
    with torch.no_grad():
        model.language.lm_head.weight[7] = torch.inf
    engine = engine_of(model=model)
    engine.submit(text_sample("p", 5), DecodingOptions(max_tokens=8, outline=outline))
    (update,) = engine.step()
    assert "not finite" in (update.error or "")


def test_no_cache_equals_a_refresh_at_every_step_in_answers_with_choices() -> None:
    options = DecodingOptions(max_tokens=25, outline=RECORDS, temperature=1.0)
    prompts = [text_sample(f"{n}", 7, n) for n in range(4)]
    exact = decode(MODEL, prompts, options)
    assert len({tuple(each.tokens) for each in exact}) > 1
    again = decode(MODEL, prompts, replace(options, cache=Cache.none))
    assert [each.tokens for each in again] == [each.tokens for each in exact]
