"""Answers that are text or follow an outline: the model decides by the first token of the outline."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import Decoded
from lladav.errors import UserError
from lladav.model.attention import attend_once
from lladav.model.language import rotary_factors
from lladav.structured.outline import Fixed, Slot
from tests.lladav.build import TOKENS, text_sample, tiny_model
from tests.lladav.decoding.outlines import TreeOutline, repeated
from tests.lladav.decoding.test_engine import engine_of

MODEL = tiny_model(std=0.3)
TEXT = DecodingOptions(max_tokens=12, block_length=4, stop=((TOKENS.eot,),), forbidden=(TOKENS.eos,))
PROMPT = text_sample("p", 7)


def outline_of(first: int) -> TreeOutline:
    return TreeOutline([Fixed((first, 11)), Slot(repeated(1, 2, 3), 4)])


def options(first: int, **settings: Any) -> DecodingOptions:
    """Text, or an outline that begins with a token."""
    return DecodingOptions(
        max_tokens=6, outline=outline_of(first), text_options=replace(TEXT, **settings), **settings
    )


def one(given: DecodingOptions) -> Decoded:
    (answer,) = decode(MODEL, [PROMPT], given)
    return answer


@torch.no_grad()
def first_probabilities() -> torch.Tensor:
    """Probability of each token at the first position of the text, by a plain forward."""
    language, ids = MODEL.language, torch.from_numpy(PROMPT.text.input_ids).long()
    canvas = torch.full((TEXT.max_tokens,), TOKENS.mask_id)
    embeddings = language.embed_tokens(torch.cat((ids, canvas)))
    rotary = rotary_factors(torch.arange(len(embeddings)), MODEL.config.language)
    hidden = language(embeddings, rotary, lambda _, query, key, value: attend_once(query, key, value, None))
    logits = language.lm_head(hidden)[len(ids)].double()
    logits[list(TEXT.forbidden)] = -torch.inf
    return logits.softmax(-1)


@pytest.mark.parametrize("margin", [-0.01, 0.01])
def test_the_outline_is_followed_if_its_first_token_is_more_probable_than_all_others(margin: float) -> None:
    """A bias puts the probability of a token just above or below one half."""
    probabilities = first_probabilities()
    first = int(probabilities.argmax())
    even = float(torch.logit(1 - probabilities[first]))
    answer = one(options(first, logit_bias={first: even + margin}))
    assert answer.follows_outline is (margin > 0)
    assert outline_of(first).permits(answer.tokens) is answer.follows_outline


def test_a_text_is_that_of_a_request_without_an_outline() -> None:
    unlikely = int(first_probabilities().argmin())
    text, alone = one(options(unlikely)), one(TEXT)
    assert (text.tokens, text.stopped) == (alone.tokens, alone.stopped)
    assert text.confidences == pytest.approx(alone.confidences, rel=1e-3)
    assert (text.forwards, text.refreshes) == (alone.forwards + 1, alone.refreshes + 1)
    assert not text.follows_outline


def test_a_text_does_not_begin_with_the_first_token_of_the_outline() -> None:
    """Even if that token is the most probable one, but not more probable than all others together."""
    first = one(TEXT).tokens[0]
    assert first_probabilities()[first] < 0.5
    answer = one(options(first))
    assert not answer.follows_outline
    assert answer.tokens[0] != first


def test_both_kinds_are_drawn_by_their_probability() -> None:
    """At a temperature, by the power of its inverse."""
    first, temperature = int(first_probabilities().argmax()), 2.0
    p = float(first_probabilities()[first])
    weights = [p ** (1 / temperature), (1 - p) ** (1 / temperature)]
    counts = Counter(
        one(options(first, temperature=temperature, seed=seed)).follows_outline for seed in range(300)
    )
    assert counts[True] / 300 == pytest.approx(weights[0] / sum(weights), abs=0.1)


def test_both_kinds_run_side_by_side_and_updates_tell_them_apart() -> None:
    engine = engine_of(model=MODEL)
    probabilities = first_probabilities()
    likely, unlikely = int(probabilities.argmax()), int(probabilities.argmin())
    engine.submit(PROMPT, options(likely, logit_bias={likely: 20.0}), "calls")
    engine.submit(PROMPT, options(unlikely), "text")
    engine.submit(PROMPT, TEXT, "alone")
    updates = [update for _ in range(99) if engine.busy for update in engine.step()]
    answers = {update.id: update.answer for update in updates if update.answer is not None}
    assert {name: answer.follows_outline for name, answer in answers.items()} == {
        "calls": True, "text": False, "alone": False,
    }  # fmt: skip
    assert all(update.follows_outline for update in updates if update.id == "calls")
    assert answers["text"].tokens == answers["alone"].tokens


def test_the_longer_kind_decides_about_memory() -> None:
    assert options(3).answer_positions == 12
    assert replace(options(3), max_tokens=24).answer_positions == 24


def test_ids_of_the_text_are_checked() -> None:
    with pytest.raises(UserError, match=r"ids \[999\] are outside"):
        decode(MODEL, [PROMPT], replace(options(3), text_options=replace(TEXT, forbidden=(999,))))
