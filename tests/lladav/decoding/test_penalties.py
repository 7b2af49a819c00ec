"""Penalties and ranked tokens in any-order decoding: a plain loop over the canvas is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.model.attention import attend_once
from lladav.model.language import rotary_factors
from tests.lladav.build import TOKENS, text_sample, tiny_model

MODEL = tiny_model(std=0.3)
PROMPT = text_sample("p", 7)
CANVAS = 20
NAMES = "repetition_penalty", "frequency_penalty", "presence_penalty"


@torch.no_grad()
def canvas_logits(canvas: np.ndarray) -> torch.Tensor:
    """Logits of the canvas by a plain forward over prompt and canvas."""
    language, prompt = MODEL.language, torch.from_numpy(PROMPT.text.input_ids).long()
    embeddings = language.embed_tokens(torch.cat((prompt, torch.from_numpy(canvas))))
    rotary = rotary_factors(torch.arange(len(embeddings)), MODEL.config.language)
    hidden = language(embeddings, rotary, lambda _, query, key, value: attend_once(query, key, value, None))
    return language.lm_head(hidden)[len(prompt) :].double()


def plain_answer(repetition: float, frequency: float, presence: float, tokens_per_step: int) -> list[int]:
    """One request, decoded token by token as the documentation says."""
    canvas = np.full(CANVAS, TOKENS.mask_id)
    while (masks := np.flatnonzero(canvas == TOKENS.mask_id)).size:
        logits, written = canvas_logits(canvas), canvas[canvas != TOKENS.mask_id].tolist()
        for token in set(written):
            column = logits[:, token]
            column = torch.where(column > 0, column / repetition, column * repetition)
            logits[:, token] = column - frequency * written.count(token) - presence
        confidence, best = logits.softmax(-1).max(-1)
        most = sorted(masks, key=lambda position: -confidence[position])[:tokens_per_step]
        for position in most:
            canvas[position] = best[position]
    return canvas.tolist()


@pytest.mark.parametrize("tokens_per_step", [1, 3])
@pytest.mark.parametrize("given", [(1.0, 0.0, 0.0), (1.5, 0.0, 0.0), (1.0, 1.0, 0.0), (1.1, 0.3, 1.5)])
def test_written_tokens_count_on_both_sides(given: tuple[float, float, float], tokens_per_step: int) -> None:
    names: dict[str, Any] = dict(zip(NAMES, given, strict=True))
    options = DecodingOptions(max_tokens=CANVAS, tokens_per_step=tokens_per_step, **names)
    (answer,) = decode(MODEL, [PROMPT], options)
    assert answer.tokens == plain_answer(*given, tokens_per_step)


def test_penalties_change_the_answer() -> None:
    answers = [
        decode(MODEL, [PROMPT], DecodingOptions(max_tokens=CANVAS, presence_penalty=penalty))[0].tokens
        for penalty in (-2.0, 0.0, 2.0)
    ]
    counts = [len(set(tokens)) for tokens in answers]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_ranked_tokens_are_those_of_the_step_that_unmasks() -> None:
    """Suppression and biases included; one entry for each token, in the order of the answer."""
    options = DecodingOptions(max_tokens=8, top_logprobs=2, block_length=4, logit_bias={5: 1.0})
    (answer,) = decode(MODEL, [PROMPT], options)
    assert [ranked[0][0] for ranked in answer.top] == answer.tokens
    found = [ranked[0][1] for ranked in answer.top]
    assert found == pytest.approx(np.log(answer.confidences).tolist(), abs=1e-4)
    assert decode(MODEL, [PROMPT], DecodingOptions(max_tokens=8))[0].top == []
