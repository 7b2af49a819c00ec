"""Token, confidence and entropy in one pass over the vocabulary, against the whole softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lladav.decoding.cpu_weights import Projection, head_chunks
from lladav.decoding.sampler import Guidance, SamplerOutput, SamplingParams, sample
from lladav.decoding.token_limits import NO_LIMITS, TokenLimits

ROWS, WIDTH, VOCABULARY = 5, 6, 37

SUPPRESSED = [
    SamplingParams(2, (0, 9), suppressed={1: (30, 2, 9)}),
    SamplingParams(3, suppressed={1: (5,), 2: (36, 35)}),
]


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weight() -> Tensor:
    return 3 * torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def head(weight: Tensor, request: pytest.FixtureRequest) -> list[Projection]:
    """In pieces, so that tokens compete across them."""
    return head_chunks(weight, request.param, chunk=7)


def of_logits(logits: Tensor, *draws: SamplingParams) -> SamplerOutput:
    """Sampler output for hidden states that are the logits."""
    return sample(
        logits,
        head_chunks(torch.eye(logits.shape[-1]), prepacked=False, chunk=7),
        draws or [SamplingParams(len(logits))],
    )


def test_equals_the_whole_softmax(hidden: Tensor, head: list[Projection], weight: Tensor) -> None:
    found = sample(hidden, head, [SamplingParams(2, entropy=True), SamplingParams(3)])
    exact = (hidden.double() @ weight.double().T).softmax(-1)
    assert found.tokens_M.tolist() == exact.argmax(-1).tolist()
    torch.testing.assert_close(found.confidence_M, exact.amax(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.entropy_M, torch.special.entr(exact).sum(-1), rtol=1e-4, atol=1e-6)


def test_forbidden_ids_are_never_sampled_and_have_no_probability(
    hidden: Tensor, head: list[Projection], weight: Tensor
) -> None:
    best = sample(hidden, head, [SamplingParams(ROWS)]).tokens_M.tolist()
    found = sample(hidden, head, [SamplingParams(2, tuple(best)), SamplingParams(3, entropy=True)])
    logits = hidden.double() @ weight.double().T
    logits[:2, best] = -torch.inf
    exact = logits.softmax(-1)
    assert found.tokens_M.tolist() == exact.argmax(-1).tolist()
    torch.testing.assert_close(found.confidence_M, exact.amax(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.entropy_M, torch.special.entr(exact).sum(-1), rtol=1e-4, atol=1e-6)


def test_suppressed_ids_of_a_row_have_no_probability(
    hidden: Tensor, head: list[Projection], weight: Tensor
) -> None:
    found = sample(hidden, head, SUPPRESSED)
    logits = hidden.double() @ weight.double().T
    logits[:2, [0, 9]] = -torch.inf
    for row, ids in {1: (30, 2, 9), 3: (5,), 4: (36, 35)}.items():
        logits[row, list(ids)] = -torch.inf
    exact = logits.softmax(-1)
    assert found.tokens_M.tolist() == exact.argmax(-1).tolist()
    torch.testing.assert_close(found.confidence_M, exact.amax(-1), rtol=1e-5, atol=0)


@pytest.mark.gpu
def test_suppressed_ids_are_the_same_on_a_gpu(hidden: Tensor, weight: Tensor) -> None:
    on_cpu = sample(hidden, head_chunks(weight, prepacked=False, chunk=7), SUPPRESSED)
    on_gpu = sample(hidden.cuda(), head_chunks(weight.cuda(), prepacked=False, chunk=7), SUPPRESSED)
    assert on_gpu.tokens_M.tolist() == on_cpu.tokens_M.tolist()
    torch.testing.assert_close(on_gpu.confidence_M.cpu(), on_cpu.confidence_M, rtol=1e-3, atol=1e-5)


def test_near_certain_rows_keep_their_order() -> None:
    logits = torch.zeros(3, 16)
    logits[:, 9] = torch.tensor([25.0, 60.0, 30.0])
    confidence = of_logits(logits).confidence_M.tolist()
    assert confidence[0] < confidence[2] < confidence[1] <= 1


def test_guidance_moves_away_from_the_unconditional_logits(
    hidden: Tensor, head: list[Projection], weight: Tensor
) -> None:
    unconditional = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2))
    guided = Guidance(torch.tensor([1, 4]), unconditional, torch.tensor([1.5, 0.5]))
    found = sample(hidden, head, [SamplingParams(ROWS)], guided)
    logits, without = hidden @ weight.T, unconditional @ weight.T
    for row, (scale, base) in {1: (1.5, without[0]), 4: (0.5, without[1])}.items():
        logits[row] = base + (scale + 1) * (logits[row] - base)
    assert found.tokens_M.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(found.confidence_M, logits.double().softmax(-1).amax(-1), rtol=1e-4, atol=0)


def test_draws_follow_the_softmax_at_their_temperature() -> None:
    logits = torch.linspace(1.0, -1.0, 9).expand(20_000, 9)
    found = of_logits(logits, SamplingParams(20_000, temperature=0.5, generator=generator()))
    share = found.tokens_M.bincount(minlength=9) / 20_000
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), atol=0.015, rtol=0)
    expected = logits[0].double().softmax(-1)[found.tokens_M]
    torch.testing.assert_close(found.confidence_M, expected, rtol=1e-5, atol=0)


def test_draws_with_top_p_come_from_the_nucleus() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
    logits = probabilities.log().expand(5000, 5)
    found = of_logits(
        logits, SamplingParams(5000, temperature=1.0, limits=TokenLimits(top_p=0.6), generator=generator())
    )
    share = found.tokens_M.bincount(minlength=5) / 5000
    expected = torch.tensor([0.0, 0.4, 0.0, 0.25, 0.0]) / 0.65
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


def test_draws_do_not_depend_on_the_other_rows(hidden: Tensor, head: list[Projection]) -> None:
    for limits in (NO_LIMITS, TokenLimits(top_p=0.9)):
        draws = [
            SamplingParams(2, temperature=1.0, limits=limits, generator=generator(seed)) for seed in (5, 6)
        ]
        together = sample(hidden[:4], head, draws).tokens_M
        alone = sample(
            hidden[2:4], head, [SamplingParams(2, temperature=1.0, limits=limits, generator=generator(6))]
        ).tokens_M
        assert together[2:].tolist() == alone.tolist()


def test_params_must_cover_the_rows(hidden: Tensor, head: list[Projection]) -> None:
    with pytest.raises(ValueError, match="cover"):
        sample(hidden, head, [SamplingParams(ROWS - 1)])
