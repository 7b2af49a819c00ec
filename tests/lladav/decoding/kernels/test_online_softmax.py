"""The summary of a row's logits: exact, merged from blocks, and by the kernel."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from lladav.decoding.kernels.online_softmax import SoftmaxStats, merged, summarize

BLOCK = 50


def logits_of(dtype: torch.dtype = torch.float32) -> Tensor:
    """Among others a near-certain row and one with a forbidden id."""
    logits = 5 * torch.randn(4, 9001, generator=torch.Generator().manual_seed(0))
    logits[1, 7], logits[2, 4200] = 80.0, -1e30
    return logits.to(dtype)


def exactly(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    below = logits.double() - logits.double().amax(-1, keepdim=True)
    place = logits.argmax(-1)
    terms = below.exp().scatter(-1, place[:, None], 0.0)
    return logits.amax(-1).double(), place, terms.sum(-1), (below * terms).sum(-1)


def assert_exact(found: SoftmaxStats, logits: Tensor) -> None:
    assert found.moment_M is not None
    greatest, place, others, moment = exactly(logits)
    assert found.place_M.tolist() == place.tolist()
    assert found.greatest_M.double().tolist() == greatest.tolist()
    torch.testing.assert_close(found.others_M.double().cpu(), others, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.moment_M.double().cpu(), moment, rtol=1e-5, atol=0)
    assert found.finite_M.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_a_row(dtype: torch.dtype) -> None:
    logits = logits_of(dtype)
    assert_exact(summarize(logits.clone(), moment=True), logits)


def test_merged_from_blocks() -> None:
    logits = logits_of()
    blocks = [summarize(each.clone(), moment=True) for each in logits.split(BLOCK, dim=-1)]
    starts = range(0, logits.shape[-1], BLOCK)
    places = [each.place_M + start for each, start in zip(blocks, starts, strict=True)]
    found = merged(
        torch.stack([each.greatest_M for each in blocks], -1),
        torch.stack(places, -1),
        torch.stack([each.others_M for each in blocks], -1),
        torch.stack([each.moment_M for each in blocks if each.moment_M is not None], -1),
        torch.stack([each.finite_M for each in blocks], -1),
        moment=True,
    )
    assert_exact(found, logits)


BAD = [torch.nan, torch.inf, -torch.inf]


def assert_bad_rows_are_found(device: str, moment: bool, bad: float) -> None:
    logits = logits_of().to(device)
    logits[1, 8500] = bad
    assert summarize(logits, moment).finite_M.tolist() == [True, False, True, True]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("moment", [False, True])
def test_rows_that_are_not_finite_are_found(moment: bool, bad: float) -> None:
    assert_bad_rows_are_found("cpu", moment, bad)


@pytest.mark.gpu
@pytest.mark.parametrize("bad", BAD)
def test_rows_that_are_not_finite_are_found_by_the_kernel(bad: float) -> None:
    assert_bad_rows_are_found("cuda", True, bad)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_the_kernel(dtype: torch.dtype) -> None:
    logits = logits_of(dtype)
    found = summarize(logits.cuda(), moment=True)
    assert "lladav.decoding.kernels.triton_softmax" in sys.modules
    assert_exact(found, logits)
