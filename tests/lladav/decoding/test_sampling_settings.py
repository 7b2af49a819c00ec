"""Limits of draws, biases, penalties, ranked tokens: ``transformers`` and the whole softmax are oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lladav.decoding.cpu_weights import head_chunks
from lladav.decoding.gumbel import drawable
from lladav.decoding.penalties import RepetitionPenalties
from lladav.decoding.sampler import SamplerOutput, SamplingParams, sample
from lladav.decoding.token_limits import TokenLimits

ROWS, VOCABULARY = 4, 37
NO_TOKENS: Any = torch.zeros(1, 1, dtype=torch.long)
"""Tokens before the logits, which these processors do not look at."""
LIMITS = [
    {"top_k": 1}, {"top_k": 5}, {"top_k": 100}, {"top_p": 0.7}, {"min_p": 0.2}, {"min_p": 1.0},
    {"top_k": 6, "top_p": 0.8}, {"top_p": 0.9, "min_p": 0.1}, {"top_k": 9, "top_p": 0.95, "min_p": 0.05},
]  # fmt: skip


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))


def of_logits(logits: Tensor, *params: SamplingParams) -> SamplerOutput:
    """Sampler output for hidden states that are the logits, with the vocabulary in pieces."""
    head = head_chunks(torch.eye(logits.shape[-1]), prepacked=False, chunk=7)
    return sample(logits, head, params)


def warped(logits: Tensor, temperature: float, limits: dict[str, Any]) -> Tensor:
    """The logits within limits, by ``transformers``."""
    warpers = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    own = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    own += [warpers[name](limits[name]) for name in warpers if name in limits]
    return own(NO_TOKENS.expand(len(logits), -1), logits)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_within_limits_are_those_of_transformers(
    logits: Tensor, limits: dict[str, Any], temperature: float
) -> None:
    found = drawable(logits, temperature, TokenLimits(**limits))
    assert found.tolist() == warped(logits, temperature, limits).isfinite().tolist()


@pytest.mark.parametrize("limits", LIMITS)
def test_alternatives_within_limits_are_those_of_transformers(logits: Tensor, limits: dict[str, Any]) -> None:
    for row in logits:
        descending = row.sort(descending=True).values
        within = TokenLimits(**limits).within(descending.softmax(-1).numpy().astype(np.float64))
        assert within.tolist() == warped(descending[None], 1.0, limits)[0].isfinite().tolist()


def test_draws_within_limits_follow_the_softmax(logits: Tensor) -> None:
    limits, temperature = {"top_k": 6, "top_p": 0.9, "min_p": 0.05}, 1.5
    generator = torch.Generator().manual_seed(3)
    params = SamplingParams(
        20_000, temperature=temperature, limits=TokenLimits(**limits), generator=generator
    )
    found = of_logits(logits[:1].expand(20_000, -1), params)
    share = found.tokens_M.bincount(minlength=VOCABULARY) / 20_000
    torch.testing.assert_close(share, warped(logits, temperature, limits)[0].softmax(-1), atol=0.015, rtol=0)


def penalized(
    logits: Tensor, answer: list[int], repetition: float, frequency: float, presence: float
) -> Tensor:
    """By ``transformers`` for the repetition penalty, by OpenAI's formula for the others."""
    ids: Any = torch.tensor([answer]).expand(len(logits), -1)
    found = RepetitionPenaltyLogitsProcessor(repetition)(ids, logits.clone())
    counts = torch.tensor(answer).bincount(minlength=VOCABULARY)
    return found - frequency * counts - presence * (counts > 0)


@pytest.mark.parametrize("given", [(1.3, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, -1.5), (0.8, 1.0, 0.5)])
def test_penalties_are_those_of_transformers_and_openai(
    logits: Tensor, given: tuple[float, float, float]
) -> None:
    answer = [*logits.argmax(-1).tolist(), 3, 3, 36]
    own = SamplingParams(2, penalties=RepetitionPenalties.of(np.array(answer), *given), entropy=True)
    found = of_logits(logits, own, SamplingParams(2))
    expected = torch.cat((penalized(logits[:2], answer, *given), logits[2:])).double().softmax(-1)
    assert found.tokens_M.tolist() == expected.argmax(-1).tolist()
    torch.testing.assert_close(found.confidence_M, expected.amax(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.entropy_M, torch.special.entr(expected).sum(-1), rtol=1e-4, atol=1e-6)


def test_an_answer_without_tokens_has_no_penalties() -> None:
    assert RepetitionPenalties.of(np.array([], np.int64), 1.5, 1.0, 1.0) is None
    assert RepetitionPenalties.of(np.array([1]), 1.0, 0.0, 0.0) is None


def test_biases_are_those_of_transformers_and_bans_win(logits: Tensor) -> None:
    bias = {0: 3.5, 6: -2.0, 7: 100.0, 36: 0.25}
    params = [SamplingParams(1, bias=bias), SamplingParams(1, (7,), bias=bias), SamplingParams(2)]
    found = of_logits(logits, *params)
    by_sequence: Any = {(token,): value for token, value in bias.items()}
    expected = SequenceBiasLogitsProcessor(by_sequence)(NO_TOKENS.expand(2, -1), logits[:2].clone())
    expected[1, 7] = -torch.inf
    exact = torch.cat((expected, logits[2:])).double().softmax(-1)
    assert found.tokens_M.tolist() == exact.argmax(-1).tolist()
    assert found.tokens_M[0] == 7
    torch.testing.assert_close(found.confidence_M, exact.amax(-1), rtol=1e-5, atol=0)


def test_the_most_probable_tokens_are_ranked(logits: Tensor) -> None:
    counts = [3, 0, 20, 1]
    params = [SamplingParams(1, bias={5: 2.0}, top_logprobs=count) for count in counts]
    top = of_logits(logits, *params).top
    assert top is not None
    changed = logits.clone()
    changed[:, 5] += 2
    for row, count in enumerate(counts):
        expected = changed[row].log_softmax(-1).topk(count)
        (found,) = top.of([row])
        assert [token for token, _ in found] == expected.indices.tolist()
        assert [value for _, value in found] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert [len(each) for each in top.of([3, 1, 0])] == [1, 0, 3]


@pytest.mark.gpu
def test_adjustments_are_the_same_on_a_gpu(logits: Tensor) -> None:
    def params() -> list[SamplingParams]:
        penalties = RepetitionPenalties.of(np.array([1, 1, 30]), 1.2, 0.5, 0.5)
        return [SamplingParams(ROWS, bias={2: 5.0}, penalties=penalties, top_logprobs=4)]

    on_cpu = of_logits(logits, *params())
    head = head_chunks(torch.eye(VOCABULARY).cuda(), prepacked=False, chunk=7)
    on_gpu = sample(logits.cuda(), head, params())
    assert on_gpu.tokens_M.tolist() == on_cpu.tokens_M.tolist()
    torch.testing.assert_close(on_gpu.confidence_M.cpu(), on_cpu.confidence_M, rtol=1e-3, atol=1e-5)
    assert on_cpu.top is not None
    assert on_gpu.top is not None
    rows = list(range(ROWS))
    ids = [[token for token, _ in row] for row in on_cpu.top.of(rows)]
    assert [[token for token, _ in row] for row in on_gpu.top.of(rows)] == ids
