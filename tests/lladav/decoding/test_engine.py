"""The engine: answers do not depend on other requests, and memory is never over-committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lladav.config.schema import Attention
from lladav.decoding.cuda_graphs import GraphSize
from lladav.decoding.engine import Engine, EngineConfig, decode
from lladav.decoding.kv_cache import kv_block_bytes
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.results import Decoded, Update
from lladav.errors import UserError
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import (
    TOKENS,
    image_sample,
    packed_logits,
    text_of,
    text_sample,
    tiny_ar_config,
    tiny_model,
    variant,
)
from tests.lladav.decoding.outlines import RECORDS

BLOCK_SIZE = 8
MODEL = tiny_model(std=0.3)
NEXT_TOKEN_MODEL = tiny_model(tiny_ar_config(), std=0.3)
TWELVE = DecodingOptions(max_tokens=12, block_length=4)

OPTIONS = [
    TWELVE,
    DecodingOptions(max_tokens=12, block_length=6, steps=4, suffix=(7, 8), refresh_interval=2),
    DecodingOptions(max_tokens=12, block_length=4, threshold=0.3, stop=((3,), (9, 9)), refresh_interval=None),
    DecodingOptions(max_tokens=12, factor=1.0, forbidden=(1, 2), cache=Cache.dual, refresh_interval=3),
    DecodingOptions(max_tokens=12, block_length=4, temperature=0.8, seed=3, refresh_interval=3),
    DecodingOptions(max_tokens=12, block_length=4, temperature=1.0, top_p=0.8, cache=Cache.none),
    DecodingOptions(max_tokens=8, entropy=0.5, refresh_interval=4, infill={0: 5, 3: 6}),
    DecodingOptions(max_tokens=8, block_length=4, guidance=1.0, refresh_interval=2),
    DecodingOptions(max_tokens=12, tokens_per_step=2, no_repeat_ngram=1, refresh_interval=3),
    DecodingOptions(max_tokens=25, outline=RECORDS, refresh_interval=2),
    DecodingOptions(max_tokens=25, outline=RECORDS, temperature=1.5, block_length=5, refresh_interval=3),
    DecodingOptions(
        max_tokens=25, outline=RECORDS, threshold=0.3, cache=Cache.dual, block_length=5, refresh_interval=None
    ),
    DecodingOptions(max_tokens=25, outline=RECORDS, temperature=1.0, top_p=0.8, guidance=1.0),
]

NEXT_TOKEN_OPTIONS = [
    DecodingOptions(max_tokens=12),
    DecodingOptions(max_tokens=12, stop=((3,), (9, 9)), forbidden=(1, 2)),
    DecodingOptions(max_tokens=12, temperature=0.8, seed=3),
    DecodingOptions(max_tokens=12, temperature=1.0, top_p=0.8),
    DecodingOptions(max_tokens=12, no_repeat_ngram=2),
]
CASES = [(MODEL, OPTIONS), (NEXT_TOKEN_MODEL, NEXT_TOKEN_OPTIONS)]
"""Models, and options that they have."""
EACH_CASE = [(model, options) for model, some in CASES for options in some]


def engine_of(blocks: int = 1000, model: LLaDAV = MODEL, **settings: Any) -> Engine:
    budget = blocks * kv_block_bytes(model.config.language, torch.float32, BLOCK_SIZE)
    prompts = settings.pop("prompt_bytes", 2**20)
    config = EngineConfig(budget + prompts, block_size=BLOCK_SIZE, prompt_bytes=prompts, **settings)
    return Engine(model, config)


def run(engine: Engine) -> dict[str, Decoded]:
    """Answers of all queued requests."""
    answers = {}
    while engine.busy:
        answers |= {update.id: update.answer for update in engine.step() if update.answer is not None}
    return answers


def one(model: LLaDAV, prompt: Sample, options: DecodingOptions) -> Decoded:
    return decode(model, [prompt], options)[0]


def some_prompts() -> list[Sample]:
    """Rows of different lengths, one of them with an image."""
    image = image_sample("image", MODEL.geometry, [(40, 30)])
    return [text_sample("short", 3, seed=1), image, text_sample("long", 17, seed=2)]


@pytest.mark.parametrize(("model", "options"), EACH_CASE)
def test_a_batch_equals_each_prompt_alone(model: LLaDAV, options: DecodingOptions) -> None:
    together = decode(model, some_prompts(), options)
    assert [a.tokens for a in together] == [one(model, p, options).tokens for p in some_prompts()]


@pytest.mark.parametrize(("model", "choices"), CASES)
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_an_answer_does_not_depend_on_other_requests(
    model: LLaDAV, choices: Sequence[DecodingOptions], data: st.DataObject
) -> None:
    """Requests of any options come at any step, under tight budgets for refreshes and for memory."""
    requests = {
        f"{number}": (text_sample(f"{number}", data.draw(st.integers(1, 40)), number), options)
        for number, options in enumerate(
            data.draw(st.lists(st.sampled_from(choices), min_size=2, max_size=6))
        )
    }
    engine = engine_of(
        blocks=data.draw(st.integers(16, 60)),
        model=model,
        refresh_positions=data.draw(st.integers(1, 200)),
        max_rows=data.draw(st.integers(1, 6)),
    )
    answers: dict[str, Decoded] = {}
    for prompt, options in requests.values():
        engine.submit(prompt, options)
        for _ in range(data.draw(st.integers(0, 5))):
            answers |= {update.id: update.answer for update in engine.step() if update.answer is not None}
    answers |= run(engine)
    assert engine.kv_cache.free_blocks == engine.kv_cache.total_blocks
    for name, (prompt, options) in requests.items():
        alone = one(model, prompt, options)
        assert (answers[name].tokens, answers[name].forwards) == (alone.tokens, alone.forwards)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_refresh_at_every_step_is_the_same_as_no_cache(options: DecodingOptions) -> None:
    every = replace(options, refresh_interval=1, cache=Cache.prefix)
    prompt = text_sample("p", 20)
    assert one(MODEL, prompt, every).tokens == one(MODEL, prompt, replace(options, cache=Cache.none)).tokens


@pytest.mark.parametrize("options", OPTIONS)
def test_under_causal_attention_every_cache_is_exact(options: DecodingOptions) -> None:
    """Keys and values before a block are final when the block begins; those after it have no effect."""
    model = variant(MODEL, attention=Attention.causal)
    caches = [
        replace(options, cache=cache, refresh_interval=interval)
        for cache in (Cache.none, Cache.prefix, Cache.dual)
        for interval in (1, 3, None)
    ]
    exact, *others = (decode(model, some_prompts(), each) for each in caches)
    for found in others:
        assert [each.tokens for each in found] == [each.tokens for each in exact]


def test_under_causal_attention_a_mask_does_not_see_what_follows() -> None:
    model = variant(MODEL, attention=Attention.causal)
    ids = [1, 2, 3, 4, 5]
    canvas = pack([Sample("canvas", text_of([*ids, TOKENS.mask_id]))], model.geometry)
    options = DecodingOptions(max_tokens=4, block_length=1, suffix=(7, 8))
    first = packed_logits(model, canvas)[-1].argmax().item()
    assert one(model, Sample("prompt", text_of(ids)), options).tokens[0] == first


def test_a_dialogue_causal_batch_equals_each_prompt_alone() -> None:
    model = variant(tiny_model(std=0.3), attention=Attention.dialogue_causal)
    prompts = [Sample("turns", text_of([1, 2, 3, 4, 5], turns=[0, 0, 0, 1, 1])), text_sample("flat", 7)]
    for options in (DecodingOptions(max_tokens=6, tokens_per_step=2), replace(TWELVE, refresh_interval=2)):
        together = decode(model, prompts, options)
        assert [a.tokens for a in together] == [one(model, prompt, options).tokens for prompt in prompts]


def test_the_answer_belongs_to_the_last_turn_of_its_prompt() -> None:
    model = variant(tiny_model(std=0.3), attention=Attention.dialogue_causal)
    ids, turns = [1, 2, 3, 4, 5], [0, 0, 0, 1, 1]
    canvas = Sample("canvas", text_of([*ids, TOKENS.mask_id], turns=[*turns, 1]))
    expected = packed_logits(model, pack([canvas], model.geometry))[-1].argmax().item()
    prompt = Sample("prompt", text_of(ids, turns=turns))
    assert one(model, prompt, DecodingOptions(max_tokens=1)).tokens == [expected]


@pytest.mark.parametrize(("model", "options"), [(MODEL, TWELVE), (NEXT_TOKEN_MODEL, NEXT_TOKEN_OPTIONS[0])])
def test_updates_have_the_unmasked_and_the_committed_tokens(model: LLaDAV, options: DecodingOptions) -> None:
    engine = engine_of(model=model)
    engine.submit(text_sample("p", 6), options)
    canvas: dict[int, int] = {}
    updates: list[Update] = []
    while engine.busy:
        (update,) = engine.step()
        canvas |= dict(zip(update.unmasked.positions, update.unmasked.tokens, strict=True))
        updates.append(update)
        assert all(position in canvas for position in range(update.committed))
    answer = updates[-1].answer
    assert answer is not None
    assert answer.tokens == [canvas[position] for position in range(12)]
    assert len(answer.confidences) == 12
    assert all(0 < confidence <= 1 for confidence in answer.confidences)
    assert [update.answer for update in updates[:-1]] == [None] * 11


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 9e-4])
@pytest.mark.parametrize("model", [MODEL, NEXT_TOKEN_MODEL])
def test_the_smallest_temperatures_take_the_most_probable_tokens(model: LLaDAV, temperature: float) -> None:
    greedy, cold = (DecodingOptions(max_tokens=6, temperature=each) for each in (0.0, temperature))
    expected = [answer.tokens for answer in decode(model, some_prompts(), greedy)]
    assert [answer.tokens for answer in decode(model, some_prompts(), cold)] == expected


def test_rows_that_are_done_take_no_more_forwards() -> None:
    free = decode(MODEL, some_prompts(), TWELVE)
    stop = free[0].tokens[2]
    stopped = decode(MODEL, some_prompts(), replace(TWELVE, stop=((stop,),)))
    assert stopped[0].tokens == free[0].tokens[: free[0].tokens.index(stop)]
    assert stopped[0].forwards <= 4 < free[0].forwards


def test_forbidden_tokens_never_appear() -> None:
    options = DecodingOptions(max_tokens=12, forbidden=tuple(range(5, 70)), temperature=1.0)
    assert max(one(MODEL, text_sample("p", 6), options).tokens) < 5


def test_an_answer_ends_even_if_the_model_predicts_only_masks() -> None:
    everything_else = tuple(i for i in range(70) if i != TOKENS.mask_id)
    block = DecodingOptions(max_tokens=6, block_length=3, forbidden=everything_else)
    for options in (block, replace(block, threshold=0.9), replace(block, factor=1.0)):
        answer = one(MODEL, text_sample("p", 4), options)
        assert answer.tokens == [TOKENS.mask_id] * 6
        assert answer.forwards == 6


@pytest.mark.parametrize("model", [MODEL, NEXT_TOKEN_MODEL])
def test_sampling_follows_the_seed(model: LLaDAV) -> None:
    prompt = text_sample("p", 6)
    answers = [
        one(model, prompt, DecodingOptions(max_tokens=12, temperature=1.0, seed=seed)).tokens
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_infill_keeps_its_tokens() -> None:
    options = replace(TWELVE, infill={0: 7, 5: 8, 11: 9})
    answer = one(MODEL, text_sample("p", 6), options)
    assert (answer.tokens[0], answer.tokens[5], answer.tokens[11]) == (7, 8, 9)
    assert answer.forwards == 9


def test_an_answer_that_is_all_infill_needs_no_forward() -> None:
    answer = one(MODEL, text_sample("p", 6), DecodingOptions(max_tokens=2, infill={0: 7, 1: 8}))
    assert (answer.tokens, answer.forwards) == ([7, 8], 0)


def test_visual_tokens_of_an_image_are_cached() -> None:
    engine = engine_of()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine.submit(image_sample(name, MODEL.geometry, [(40, 30)], seed), TWELVE)
    run(engine)
    assert (engine.prompt_encoder.hits, engine.prompt_encoder.misses) == (1, 2)


def test_visual_tokens_above_the_budget_are_not_cached() -> None:
    engine = engine_of(image_bytes=0)
    for name in "ab":
        engine.submit(image_sample(name, MODEL.geometry, [(40, 30)], 1), TWELVE)
    run(engine)
    assert engine.prompt_encoder.hits == 0


def test_the_head_is_applied_to_candidates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from lladav.decoding import model_runner

    rows: list[int] = []
    sample = model_runner.sample
    monkeypatch.setattr(
        model_runner, "sample", lambda hidden, *rest: rows.append(len(hidden)) or sample(hidden, *rest)
    )
    one(MODEL, text_sample("p", 9), DecodingOptions(max_tokens=6, block_length=3))
    assert rows == [3, 2, 1, 3, 2, 1]


def test_on_admit_chooses_the_options_when_a_row_is_free() -> None:
    engine, calls = engine_of(max_rows=1), []

    def on_admit() -> DecodingOptions:
        calls.append(engine.running)
        return replace(TWELVE, refresh_interval=2)

    engine.submit(text_sample("first", 5), TWELVE)
    engine.submit(text_sample("second", 5), replace(TWELVE, refresh_interval=4), on_admit=on_admit)
    answers = run(engine)
    assert calls == [[]]
    assert (answers["first"].forwards, answers["first"].refreshes) == (12, 12)
    assert (answers["second"].forwards, answers["second"].refreshes) == (12, 6)


@pytest.mark.parametrize("model", [MODEL, NEXT_TOKEN_MODEL])
def test_draws_depend_on_the_id_of_the_prompt_and_not_on_the_name_of_the_request(model: LLaDAV) -> None:
    engine, options = engine_of(model=model), DecodingOptions(max_tokens=12, temperature=1.0)
    for name in ("a", "b"):
        engine.submit(text_sample("prompt", 5), options, name)
    answers = run(engine)
    assert answers["a"].tokens == answers["b"].tokens == one(model, text_sample("prompt", 5), options).tokens


def test_updates_count_steps_and_forwarded_positions() -> None:
    engine = engine_of()
    engine.submit(text_sample("a", 5), DecodingOptions(max_tokens=4, refresh_interval=2, guidance=1.0))
    updates = [update for _ in range(4) for update in engine.step()]
    assert [update.step for update in updates] == [1, 2, 3, 4]
    assert [update.refresh for update in updates] == [True, False, True, False]
    assert [update.forwarded for update in updates] == [18, 8, 18, 8]


def test_settings_without_effect_are_warnings() -> None:
    engine = engine_of()
    warnings = engine.submit(text_sample("p", 5), replace(TWELVE, refresh_interval=9, top_p=0.5))
    assert [line.split()[0] for line in warnings] == ["refresh_interval", "top_p"]
    assert run(engine)["p"].warnings == warnings


def test_no_prompts_give_no_answers() -> None:
    assert decode(MODEL, [], DecodingOptions()) == []


@pytest.mark.parametrize(
    ("options", "length", "error"),
    [
        ({"forbidden": (70,)}, 4, r"ids \[70\] are outside the vocabulary of 70"),
        ({"stop": ((-1,),)}, 4, r"ids \[-1\] are outside"),
        ({"infill": {0: 99}}, 4, r"ids \[99\] are outside"),
        ({"max_tokens": 4096}, 1, "sample p: 1 tokens and 4096 of the answer exceed the model's 4096"),
        ({}, 0, "sample p: the prompt is empty"),
    ],
)
def test_requests_that_the_model_cannot_serve_are_refused(
    options: dict[str, Any], length: int, error: str
) -> None:
    with pytest.raises(UserError, match=error):
        one(MODEL, text_sample("p", length), DecodingOptions(**options))


def test_a_name_that_is_in_use_is_refused() -> None:
    prompts: Sequence[Sample] = [text_sample("p", 4), text_sample("p", 5)]
    with pytest.raises(UserError, match="request p: is running already"):
        decode(MODEL, prompts, TWELVE)


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(UserError, match="CUDA graphs need a model on a GPU"):
        engine_of(graph_sizes=[GraphSize(32, 2)])
