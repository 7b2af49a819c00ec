"""The reference: without attention to padding it computes our loss and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lladav.diffusion.masking import Noise, corrupt, draw_noise, supervised_counts
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV
from tests.bench.released_step import released_loss
from tests.lladav.build import image_sample, text_sample, tiny_model


def noisy(model: LLaDAV, samples: list[Sample]) -> tuple[TrainingBatch, list[Noise]]:
    packed = pack(samples, model.geometry)
    noises = [draw_noise(3, 0, s.id, n) for s, n in zip(samples, supervised_counts(packed), strict=True)]
    mask = model.config.tokens.mask_id
    return corrupt(packed, noises, mask, scale=1 / len(samples), chunk=4), noises


def mixed(model: LLaDAV) -> list[Sample]:
    return [
        text_sample("long", 40, supervised=30),
        image_sample("image", model.geometry, [(40, 30)]),
        text_sample("short", 9, supervised=5),
    ]


def gradients(loss: Tensor, model: LLaDAV) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def test_without_attention_to_padding_loss_and_gradients_are_ours() -> None:
    model = tiny_model()
    batch, noises = noisy(model, mixed(model))
    ours, released = model(batch)[0], released_loss(model, batch, noises, attend_to_padding=False)
    torch.testing.assert_close(ours, released)
    for our, theirs in zip(gradients(ours, model), gradients(released, model), strict=True):
        torch.testing.assert_close(our, theirs, atol=1e-5, rtol=1e-4)


def test_attention_to_padding_changes_the_loss() -> None:
    model = tiny_model()
    batch, noises = noisy(model, mixed(model))
    assert released_loss(model, batch, noises).item() != pytest.approx(model(batch)[0].item(), rel=1e-4)


def test_equal_lengths_need_no_padding() -> None:
    model = tiny_model()
    batch, noises = noisy(model, [text_sample(str(i), 20, seed=i, supervised=12) for i in range(3)])
    torch.testing.assert_close(released_loss(model, batch, noises), model(batch)[0])
