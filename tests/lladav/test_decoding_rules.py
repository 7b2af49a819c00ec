"""Options of decoding, and the rules by which tokens are proposed and revealed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.decoding.options import DecodingOptions
from lladav.decoding.reveal import by_factor, by_quota, by_threshold, gumbel_noise, probability, propose
from lladav.errors import UserError
from tests.lladav.build import TOKENS

NEVER = float("-inf")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 8, "block_length": 3}, "block_length 3 does not divide max_tokens 8"),
        ({"max_tokens": 8, "block_length": 4, "steps": 3}, "steps 3 do not split over 2 blocks"),
        ({"steps": 4, "threshold": 0.9}, "steps and threshold exclude each other"),
        ({"tokens_per_step": 0}, "tokens_per_step is 0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"factor": 0.0}, "factor is 0.0"),
        ({"factor": float("nan")}, "factor is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"stop": ((),)}, "stop is"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        DecodingOptions(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "quotas"),
    [
        ({"max_tokens": 4}, [1, 1, 1, 1]),
        ({"max_tokens": 24, "steps": 10}, [3, 3, 3, 3, 2, 2, 2, 2, 2, 2]),
        ({"max_tokens": 8, "block_length": 4, "steps": 4}, [2, 2]),
        ({"max_tokens": 8, "block_length": 4, "steps": 40}, [1, 1, 1, 1]),
        ({"max_tokens": 7, "tokens_per_step": 3}, [3, 3, 1]),
        ({"max_tokens": 4, "threshold": 0.9}, None),
    ],
)
def test_quotas_of_a_block(settings: dict[str, Any], quotas: list[int] | None) -> None:
    assert DecodingOptions(**settings).quotas == quotas


def test_chat_options_stop_at_eot_and_ban_the_template() -> None:
    options = DecodingOptions.for_chat(TOKENS, max_tokens=8)
    assert options.stop == ((TOKENS.eot,),)
    assert set(options.forbidden) == {TOKENS.bos, TOKENS.eos, TOKENS.start_header, TOKENS.end_header}


def test_quota_reveals_the_most_confident() -> None:
    confidence = torch.tensor([[0.2, 0.9, NEVER, 0.5], [0.3, 0.3, 0.3, NEVER]])
    assert picked(by_quota(confidence, torch.tensor([2, 2]))) == [[1, 3], [0, 1]]


def test_ties_go_to_the_earlier_position() -> None:
    confidence = torch.full((1, 500), 0.5)
    assert picked(by_quota(confidence, torch.tensor([20]))) == [list(range(20))]


def test_threshold_reveals_all_above_it_and_always_one() -> None:
    confidence = torch.tensor([[0.2, 0.9, NEVER, 0.5], [0.3, 0.2, NEVER, NEVER]])
    assert picked(by_threshold(confidence, 0.5)) == [[1, 3], [0]]


def test_factor_reveals_the_longest_confident_run_and_always_one() -> None:
    # With factor 1 the n-th most confident needs 1 - 1 / (n + 1): 1/2, 2/3, 3/4, ...
    confidence = torch.tensor([[0.7, 0.9, 0.7, NEVER], [0.1, 0.05, 0.02, NEVER]])
    assert picked(by_factor(confidence, 1.0, torch.tensor([9, 9]))) == [[0, 1], [0]]


def test_factor_never_leaves_a_single_mask() -> None:
    confidence = torch.tensor([[0.9, 0.1, NEVER]])
    assert picked(by_factor(confidence, 1.0, torch.tensor([2]))) == [[0, 1]]
    assert picked(by_factor(confidence, 1.0, torch.tensor([3]))) == [[0]]


def test_rows_without_competitors_reveal_nothing() -> None:
    confidence = torch.full((1, 3), NEVER)
    assert picked(by_threshold(confidence, 0.5)) == [[]]
    assert picked(by_factor(confidence, 1.0, torch.tensor([1]))) == [[]]


def test_near_certain_tokens_keep_their_order() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0], [0.0, 0.0, 50.0]])
    tokens, confidence = propose(logits)
    assert tokens.tolist() == [0, 0, 2]
    assert confidence.dtype == torch.float64
    certain = probability(torch.tensor([[25.0, 0.0], [30.0, 0.0]]), torch.tensor([0, 0]))
    assert certain[0] < certain[1] < 1
    assert probability(logits, tokens).tolist() == pytest.approx(
        logits.double().softmax(-1).amax(-1).tolist()
    )


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20000, 3)
    noise = gumbel_noise((20000, 3), 0.5, torch.Generator().manual_seed(0))
    share = propose(logits, noise)[0].bincount(minlength=3) / 20000
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), atol=0.015, rtol=0)


def picked(reveal_RG: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in reveal_RG]
