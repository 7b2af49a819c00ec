"""The loss (Eq. 6) of the masked rows in chunks, compared with the released loss and the full projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lladav.config.schema import Attention
from lladav.diffusion.loss import TargetRows, fused_cross_entropy
from lladav.diffusion.masking import Noise, corrupt
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED, Encoded, Sample
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import variant

CASES = [
    ("bidirectional", Attention.bidirectional),
    ("bidirectional_padded", Attention.bidirectional),
    ("dialogue_causal", Attention.dialogue_causal),
]


@pytest.mark.parametrize(("name", "pattern"), CASES)
def test_golden_loss_and_gradients(golden: Any, released: LLaDAV, name: str, pattern: Attention) -> None:
    expected = golden.cases[f"loss.{name}"]
    model = variant(released, attention=pattern)
    loss, _ = model(golden_batch(golden, model, keep_padding=name == "bidirectional"))
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    query = gradients["language.layers.0.self_attn.q_proj.weight"]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    torch.testing.assert_close(query, golden.tensors[f"loss.{name}.grad_q0"], atol=1e-4, rtol=1e-4)
    assert recorded_norm(gradients, model.config.tokens.mask_id) == pytest.approx(
        expected["grad_norm"], rel=1e-5
    )


def recorded_norm(gradients: dict[str, Tensor], mask_id: int) -> float:
    """The gradient norm as recorded: the input embeddings are fixed, except the mask's."""
    embedding = gradients.pop("language.embed_tokens.weight")
    counted = [*gradients.values(), embedding[mask_id]]
    return torch.stack([gradient.norm() for gradient in counted]).norm().item()


def golden_batch(golden: Any, model: LLaDAV, keep_padding: bool) -> TrainingBatch:
    recorded = {n: golden.tensors[f"loss.{n}"] for n in ("input_ids", "labels", "conversation_ids", "masked")}
    kept = golden.tensors["loss.attention_mask"].bool()
    rows = range(len(kept))
    samples, noises = [], []
    for row in rows:
        keep = torch.ones_like(kept[row]) if keep_padding else kept[row]
        ids, labels, turns, masked = (value[row][keep].numpy() for value in recorded.values())
        samples.append(Sample(str(row), Encoded(ids, labels, turns, np.zeros_like(masked))))
        level, ratio = (float(golden.tensors[f"loss.{n}"][row]) for n in ("t", "p_mask"))
        noises.append(Noise(level, ratio, masked[labels != IGNORED]))
    return corrupt(
        pack(samples, model.geometry), noises, model.config.tokens.mask_id, scale=1 / len(samples), chunk=7
    )


def problem(
    masked: int = 11, width: int = 8, vocabulary: int = 30, chunk: int = 4
) -> tuple[Tensor, Tensor, TargetRows]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(masked, width, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (masked,), generator=generator)
    return hidden, head, TargetRows(targets, torch.rand(masked, generator=generator), chunk)


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss * 3.0, of))


def test_equals_the_full_projection() -> None:
    """Like the released trainer, which projects all positions and computes all cross-entropies."""
    hidden, head, rows = problem()
    everywhere = torch.randn(40, hidden.shape[1])
    positions = torch.randperm(40)[: len(hidden)]
    full = everywhere.index_put((positions,), hidden) @ head.T
    entropy = cross_entropy(full[positions].float(), rows.targets_M, reduction="none")
    expected = (entropy * rows.weights_M).sum()
    loss, entropy_M = fused_cross_entropy(hidden, head, rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(entropy_M, entropy.detach())
    for ours, theirs in zip(gradients(loss, hidden, head), gradients(expected, hidden, head), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chunk", [1, 3, 11, 1000])
def test_the_chunk_size_does_not_change_the_result(chunk: int) -> None:
    hidden, head, rows = problem()
    whole, _ = fused_cross_entropy(hidden, head, TargetRows(rows.targets_M, rows.weights_M, 11))
    parts, _ = fused_cross_entropy(hidden, head, TargetRows(rows.targets_M, rows.weights_M, chunk))
    torch.testing.assert_close(parts, whole)
    for ours, theirs in zip(gradients(parts, hidden, head), gradients(whole, hidden, head), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_pass_the_numerical_check() -> None:
    hidden, head, rows = problem(masked=4, width=3, vocabulary=5, chunk=2)
    loss, _ = fused_cross_entropy(hidden, head, rows)
    slope = gradients(loss, hidden, head)[1]
    step = torch.zeros_like(head)
    step[2, 1] = 1e-2
    up, down = (fused_cross_entropy(hidden, head + sign * step, rows)[0] for sign in (1, -1))
    assert slope[2, 1].item() == pytest.approx(3.0 * (up - down).item() / 2e-2, rel=1e-2)


def test_frozen_head_gets_no_gradient() -> None:
    hidden, head, rows = problem()
    expected = gradients(fused_cross_entropy(hidden, head, rows)[0], hidden)[0]
    loss, _ = fused_cross_entropy(hidden, head.detach(), rows)
    torch.testing.assert_close(gradients(loss, hidden)[0], expected)


def test_frozen_body_gets_no_gradient() -> None:
    hidden, head, rows = problem()
    expected = gradients(fused_cross_entropy(hidden, head, rows)[0], head)[0]
    loss, _ = fused_cross_entropy(hidden.detach(), head, rows)
    torch.testing.assert_close(gradients(loss, head)[0], expected)


def test_without_masked_rows_the_loss_is_zero_and_has_gradients() -> None:
    hidden, head, _ = problem(masked=0)
    loss, entropy_M = fused_cross_entropy(
        hidden, head, TargetRows(torch.zeros(0, dtype=torch.long), torch.zeros(0), 4)
    )
    assert loss.item() == 0
    assert entropy_M.shape == (0,)
    assert [g.abs().sum().item() for g in gradients(loss, hidden, head)] == [0, 0]


def test_no_gradients_are_computed_without_grad_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, rows = problem()
    made: list[Tensor] = []
    monkeypatch.setattr("lladav.diffusion.loss._grad_logits", lambda *_: made.append(hidden))
    with torch.no_grad():
        loss, _ = fused_cross_entropy(hidden, head, rows)
    assert not loss.requires_grad
    assert not made


def test_half_precision_projection_keeps_a_float32_loss() -> None:
    hidden, head, rows = problem()
    exact, _ = fused_cross_entropy(hidden, head, rows)
    loss, entropy_M = fused_cross_entropy(hidden.bfloat16(), head.bfloat16(), rows)
    assert (loss.dtype, entropy_M.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(loss, exact, rtol=3e-2, atol=0)


def test_extreme_logits_stay_finite() -> None:
    hidden, head, rows = problem()
    loss, _ = fused_cross_entropy(hidden * 1000, head, rows)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients(loss, hidden, head))
