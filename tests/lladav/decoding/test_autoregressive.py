"""Models that predict the next token: ``transformers`` is the oracle of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lladav.config.schema import Prediction
from lladav.decoding.admission import memory_need
from lladav.decoding.engine import decode
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.sequence import Span
from lladav.decoding.stops import StopTexts
from lladav.errors import UserError
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import TOKENS, image_sample, text_sample, tiny_ar_config, tiny_model
from tests.lladav.decoding.outlines import RECORDS
from tests.lladav.decoding.test_admission import embedding_bytes
from tests.lladav.decoding.test_engine import NEXT_TOKEN_MODEL as MODEL
from tests.lladav.decoding.test_engine import engine_of, one, run
from tests.lladav.llama import llama_of

LENGTHS = (1, 3, 17, 9)
GROUPED = tiny_model(tiny_ar_config(kv_heads=2), std=0.3)


def prompts() -> list[Sample]:
    return [text_sample(f"{length}", length, seed=length) for length in LENGTHS]


@torch.no_grad()
def expected(model: LLaDAV, prompt: Sample, count: int, **settings: Any) -> list[int]:
    """The answer of ``transformers`` to embeddings, as vision-language models call it."""
    ids = torch.from_numpy(prompt.text.input_ids).long()[None]
    theirs: Any = llama_of(model)
    answer = theirs.generate(
        inputs_embeds=theirs.get_input_embeddings()(ids),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        **settings,
    )
    return answer[0].tolist()


@pytest.mark.parametrize("model", [MODEL, GROUPED])
def test_greedy_answers_equal_those_of_transformers(model: LLaDAV) -> None:
    answers = decode(model, prompts(), DecodingOptions(max_tokens=24))
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert answer.tokens == expected(model, prompt, 24)
        assert (answer.forwards, answer.refreshes) == (24, 1)
        assert answer.positions == len(prompt.text.input_ids) + 23
    assert len({token for answer in answers for token in answer.tokens}) > 4


def test_probabilities_equal_those_of_transformers() -> None:
    prompt = text_sample("p", 9)
    answer = one(GROUPED, prompt, DecodingOptions(max_tokens=8))
    ids = torch.tensor([[*prompt.text.input_ids.tolist(), *answer.tokens]])
    with torch.no_grad():
        probabilities = llama_of(GROUPED)(ids).logits[0, 8:-1].double().softmax(-1)
    found = probabilities.gather(-1, ids[0, 9:, None])[:, 0]
    assert answer.confidences == pytest.approx(found.tolist(), rel=1e-4)


@pytest.mark.parametrize("place", [0, 3, 11])
def test_an_answer_ends_before_eos(place: int) -> None:
    """As in ``transformers``, whose answer includes EOS; nothing is decoded after it."""
    free = one(MODEL, prompts()[2], DecodingOptions(max_tokens=24)).tokens
    eos = free[place]
    answer = one(MODEL, prompts()[2], DecodingOptions(max_tokens=24, stop=((TOKENS.eot,), (eos,))))
    assert [*answer.tokens, eos] == expected(MODEL, prompts()[2], 24, eos_token_id=[TOKENS.eot, eos])
    assert answer.forwards == len(answer.tokens) + 1
    assert answer.stopped


def test_an_answer_ends_before_a_stop_of_several_tokens() -> None:
    free = one(MODEL, prompts()[1], DecodingOptions(max_tokens=24)).tokens
    answer = one(MODEL, prompts()[1], DecodingOptions(max_tokens=24, stop=(tuple(free[4:7]),)))
    assert (answer.tokens, answer.forwards) == (free[:4], 7)


def test_an_answer_ends_inside_a_token_of_a_stop_text() -> None:
    def bytes_of(token: int) -> bytes:
        return f"<{token}>".encode()

    free = one(MODEL, prompts()[1], DecodingOptions(max_tokens=24)).tokens
    place = next(place for place, token in enumerate(free) if token != free[0])
    stop = StopTexts([f">{bytes_of(free[place]).decode()}"], bytes_of)
    answer = one(MODEL, prompts()[1], DecodingOptions(max_tokens=24, stop_texts=stop))
    assert (answer.tokens, answer.excess, answer.forwards) == (free[:place], 1, place + 1)


def test_forbidden_tokens_equal_suppressed_tokens_of_transformers() -> None:
    forbidden = tuple(range(0, 70, 3))
    answer = one(MODEL, prompts()[2], DecodingOptions(max_tokens=16, forbidden=forbidden))
    assert answer.tokens == expected(MODEL, prompts()[2], 16, suppress_tokens=list(forbidden))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_suppressed_ngrams_are_those_of_transformers(size: int) -> None:
    """For a prompt of embeddings, ``transformers`` counts the n-grams of the answer alone, too."""
    answers = decode(MODEL, prompts(), DecodingOptions(max_tokens=24, no_repeat_ngram=size))
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert answer.tokens == expected(MODEL, prompt, 24, no_repeat_ngram_size=size)


@pytest.mark.parametrize("penalty", [0.7, 1.5])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    """For a prompt of embeddings, ``transformers`` counts the tokens of the answer alone, too."""
    answers = decode(MODEL, prompts(), DecodingOptions(max_tokens=24, repetition_penalty=penalty))
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert answer.tokens == expected(MODEL, prompt, 24, repetition_penalty=penalty)


def test_biases_are_those_of_transformers() -> None:
    free = one(MODEL, prompts()[2], DecodingOptions(max_tokens=16)).tokens
    bias = {free[0]: -3.0, 7: 2.5, 9: 1.0}
    answer = one(MODEL, prompts()[2], DecodingOptions(max_tokens=16, logit_bias=bias))
    theirs = {(token,): value for token, value in bias.items()}
    assert answer.tokens == expected(MODEL, prompts()[2], 16, sequence_bias=theirs)
    assert answer.tokens != free


def test_ranked_tokens_begin_with_the_token_itself() -> None:
    answer = one(MODEL, prompts()[2], DecodingOptions(max_tokens=16, top_logprobs=3))
    assert [ranked[0][0] for ranked in answer.top] == answer.tokens
    logprobs = [ranked[0][1] for ranked in answer.top]
    assert logprobs == pytest.approx(np.log(answer.confidences).tolist(), abs=1e-4)
    assert {len(ranked) for ranked in answer.top} == {3}


def test_visual_tokens_are_a_part_of_the_prompt() -> None:
    sample = image_sample("image", MODEL.geometry, [(40, 30)])
    embeddings_PW, _ = engine_of(model=MODEL).prompt_encoder.encode(sample)
    theirs: Any = llama_of(MODEL)
    with torch.no_grad():
        answer = theirs.generate(
            inputs_embeds=embeddings_PW[None],
            attention_mask=torch.ones(1, len(embeddings_PW)),
            max_new_tokens=8,
            do_sample=False,
        )
    assert one(MODEL, sample, DecodingOptions(max_tokens=8)).tokens == answer[0].tolist()


def test_a_prefill_and_cached_steps_of_other_requests_share_a_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(model=MODEL)
    spans: list[list[Span]] = []
    step = engine._runner.step

    def spied(rows: Sequence[Any]) -> Any:
        spans.append([row.state.span for row in rows])
        return step(rows)

    monkeypatch.setattr(engine._runner, "step", spied)
    for sample in prompts()[1:3]:
        engine.submit(sample, DecodingOptions(max_tokens=3))
        engine.step()
    run(engine)
    assert spans == [
        [Span(0, 3, True)],
        [Span(3, 4, False), Span(0, 17, True)],
        [Span(4, 5, False), Span(17, 18, False)],
        [Span(18, 19, False)],
    ]


def test_memory_is_one_branch_of_prompt_and_answer_without_a_mask() -> None:
    need = memory_need(MODEL.config, torch.float32, 20, DecodingOptions(max_tokens=12))
    assert (need.cached_branches, need.positions) == (1, 32)
    assert need.prompt_bytes == embedding_bytes(20)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"block_length": 4}, "block_length"),
        ({"refresh_interval": 2, "cache": Cache.dual}, "refresh_interval, cache"),
        ({"threshold": 0.9}, "threshold"),
        ({"guidance": 1.0, "suffix": (1,)}, "guidance, suffix"),
        ({"infill": {0: 1}}, "infill"),
        ({"outline": RECORDS}, "outline"),
    ],
)
def test_settings_of_denoising_are_refused_by_name(settings: dict[str, Any], names: str) -> None:
    options = DecodingOptions(max_tokens=8, **settings)
    with pytest.raises(UserError, match=f"decoding: {names}: for masked diffusion only") as raised:
        engine_of(model=MODEL).submit(text_sample("p", 4), options)
    assert "\n" not in str(raised.value)


def test_chat_options_stop_at_eot_and_eos_and_forbid_nothing() -> None:
    options = DecodingOptions.for_chat(TOKENS, Prediction.next_token, max_tokens=8)
    assert (options.stop, options.forbidden) == (((TOKENS.eot,), (TOKENS.eos,)), ())
    with pytest.raises(UserError, match="refresh_interval: for masked diffusion only"):
        DecodingOptions.for_chat(TOKENS, Prediction.next_token, refresh_interval=1)
    with pytest.raises(UserError, match="allow_eos: for masked diffusion only"):
        DecodingOptions.for_chat(TOKENS, Prediction.next_token, allow_eos=True)
