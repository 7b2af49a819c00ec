"""Softmax statistics of rows of logits: exact, merged from parts, and by the Triton kernel."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from lladav.decoding.kernels.online_softmax import softmax_stats
from lladav.decoding.kernels.stats import SoftmaxStats, merge_stats, stack_stats

PART = 50


def logits_of(dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows with a near-certain one and one with a forbidden id."""
    logits = 5 * torch.randn(4, 9001, generator=torch.Generator().manual_seed(0))
    logits[1, 7], logits[2, 4200] = 80.0, -1e30
    return logits.to(dtype)


def assert_exact(found: SoftmaxStats, logits: Tensor) -> None:
    assert found.weighted_sum is not None
    below = logits.double() - logits.double().amax(-1, keepdim=True)
    argmax = logits.argmax(-1)
    exp = below.exp().scatter(-1, argmax[:, None], 0.0)
    assert found.argmax.tolist() == argmax.tolist()
    assert found.max_logit.double().tolist() == logits.amax(-1).double().tolist()
    torch.testing.assert_close(found.sum_exp.double().cpu(), exp.sum(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.weighted_sum.double().cpu(), (below * exp).sum(-1), rtol=1e-5, atol=0)
    assert found.finite.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_of_a_row(dtype: torch.dtype) -> None:
    logits = logits_of(dtype)
    assert_exact(softmax_stats(logits.clone(), with_entropy=True), logits)


def test_statistics_merged_from_parts() -> None:
    logits = logits_of()
    parts = [softmax_stats(each.clone(), with_entropy=True) for each in logits.split(PART, dim=-1)]
    starts = range(0, logits.shape[-1], PART)
    shifted = [each._replace(argmax=each.argmax + start) for each, start in zip(parts, starts, strict=True)]
    assert_exact(merge_stats(stack_stats(shifted)), logits)


NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


def assert_rows_that_are_not_finite_are_found(device: str, with_entropy: bool, value: float) -> None:
    logits = logits_of().to(device)
    logits[1, 8500] = value
    assert softmax_stats(logits, with_entropy).finite.tolist() == [True, False, True, True]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("with_entropy", [False, True])
def test_rows_that_are_not_finite_are_found(with_entropy: bool, value: float) -> None:
    assert_rows_that_are_not_finite_are_found("cpu", with_entropy, value)


@pytest.mark.gpu
@pytest.mark.parametrize("value", NOT_FINITE)
def test_rows_that_are_not_finite_are_found_by_the_kernel(value: float) -> None:
    assert_rows_that_are_not_finite_are_found("cuda", True, value)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_by_the_kernel(dtype: torch.dtype) -> None:
    logits = logits_of(dtype)
    found = softmax_stats(logits.cuda(), with_entropy=True)
    assert "lladav.decoding.kernels.triton_softmax" in sys.modules
    assert_exact(found, logits)
