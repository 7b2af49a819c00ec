"""The multimodal assembly: gradients, parts and activation checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lladav.config.schema import LanguageConfig, ModelConfig, ModelPart, Prediction
from lladav.diffusion.masking import Noise, corrupt, draw_noise, supervised_counts
from lladav.diffusion.next_token import shift
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV, packed_positions
from tests.lladav.build import image_sample, text_sample, tiny_ar_config, tiny_config, tiny_model


def test_a_batch_of_text_gives_vision_zero_gradients() -> None:
    model = tiny_model()
    gradients = gradients_of(model, noisy(model, [text_sample("t", 9, supervised=5)]))
    assert gradients.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    unused = [n for n in gradients if n.startswith(("vision.", "projector.", "newline"))]
    assert unused
    assert all(gradients[name].eq(0).all() for name in unused)


def test_a_batch_with_an_image_trains_every_part() -> None:
    model = tiny_model()
    batch = noisy(model, [image_sample("i", model.geometry, [(40, 30)])])
    gradients = gradients_of(model, batch)
    assert all(gradients[f"{part}"].ne(0).any() for part in ("newline", "projector.0.weight"))
    assert gradients["vision.vision_model.embeddings.patch_embedding.weight"].ne(0).any()


@pytest.mark.parametrize("frozen", list(ModelPart))
def test_frozen_part_gets_no_gradient_and_changes_no_other(frozen: ModelPart) -> None:
    model, whole = tiny_model(), tiny_model()
    for parameter in model.part(frozen):
        parameter.requires_grad_(False)
    batch = noisy(model, [image_sample("i", model.geometry, [(40, 30)]), text_sample("t", 6, supervised=3)])
    gradients, expected = gradients_of(model, batch), gradients_of(whole, batch)
    still = {n for n, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == still
    for name in still:
        torch.testing.assert_close(gradients[name], expected[name])


def test_parts_hold_every_trainable_parameter_once() -> None:
    model = tiny_model()
    in_parts = [id(p) for part in ModelPart for p in model.part(part)]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(in_parts) == sorted(trainable)


def test_activation_checkpointing_changes_nothing() -> None:
    model = tiny_model()
    batch = noisy(model, [image_sample("i", model.geometry, [(40, 30)])])
    kept = gradients_of(model, batch)
    model.train()
    model.checkpoint_activations(True)
    towers = model.language, model.vision
    runs = [count_runs(first_mlp(tower)) for tower in towers]
    recomputed = gradients_of(model, batch)
    assert [len(run) for run in runs] == [2, 2]
    assert recomputed.keys() == kept.keys()
    assert all(torch.equal(recomputed[name], kept[name]) for name in kept)
    model.checkpoint_activations(False)
    assert not model.language.activation_checkpointing


@pytest.mark.gpu
@pytest.mark.parametrize("config", [tiny_config(), tiny_ar_config(kv_heads=2)], ids=["masked", "causal"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_gpu_loss_and_gradients_match_the_cpu(
    config: ModelConfig, dtype: torch.dtype, tolerance: float
) -> None:
    """Compared with a CPU in float32, within a fraction of each gradient's norm."""
    model, on_gpu = tiny_model(config), tiny_model(config).to("cuda", dtype)
    samples = [image_sample("i", model.geometry, [(40, 30)]), text_sample("t", 40, supervised=20)]
    batch = noisy(model, samples)
    if config.prediction is Prediction.next_token:
        batch = shift(pack(samples, model.geometry), scale=0.5, chunk=4)
    expected = gradients_of(model, batch)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = gradients_of(on_gpu, batch.to("cuda"))
        loss = on_gpu(batch.to("cuda"))[0].item()
    assert loss == pytest.approx(model(batch)[0].item(), rel=tolerance)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if not name.endswith("k_proj.bias"):  # moves all scores of a row alike: zero but for rounding
            gap = (found[name].float().cpu() - gradient).norm()
            assert gap <= tolerance * gradient.norm(), name


def count_runs(module: nn.Module) -> list[int]:
    """Gets one element per forward of the module."""
    runs: list[int] = []
    module.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def first_mlp(tower: nn.Module) -> nn.Module:
    return next(module for name, module in tower.named_modules() if name.endswith("layers.0.mlp"))


def test_positions_restart_in_each_sample() -> None:
    model = tiny_model()
    packed = pack([text_sample("a", 3), text_sample("b", 2)], model.geometry)
    assert packed_positions(packed).tolist() == [0, 1, 2, 0, 1]


def test_image_changes_only_its_own_sample() -> None:
    model = tiny_model()
    images = [image_sample("i", model.geometry, [(40, 30)], seed) for seed in (1, 2)]
    other = text_sample("t", 8)
    with torch.no_grad():
        one, two = (model.hidden(pack([image, other], model.geometry)) for image in images)
    assert not torch.equal(one[:-8], two[:-8])
    assert torch.equal(one[-8:], two[-8:])


def test_full_size_model_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = LLaDAV(ModelConfig(name="full", tokenizer="none"))
    count = {part: sum(p.numel() for p in model.part(part)) for part in ModelPart}
    assert count[ModelPart.language] == pytest.approx(8.02e9, rel=1e-3)
    assert count[ModelPart.vision] == pytest.approx(0.4e9, rel=0.05)
    width, vision = LanguageConfig().width, model.config.vision.width
    assert count[ModelPart.projector] == vision * width + width + width * width + width


def noisy(model: LLaDAV, samples: list[Sample]) -> TrainingBatch:
    """The batch with random supervised positions masked, at least one of them."""
    packed = pack(samples, model.geometry)
    counts = supervised_counts(packed)
    noises = [draw_noise(0, 0, s.id, n, 0.5) for s, n in zip(samples, counts, strict=True)]
    noises = [Noise(n.level, n.ratio, n.masked | (torch.arange(len(n.masked)) == 0).numpy()) for n in noises]
    return corrupt(packed, noises, model.config.tokens.mask_id, scale=1 / len(samples), chunk=4)


def gradients_of(model: LLaDAV, batch: TrainingBatch) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model(batch)[0].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_all_sizes_of_the_model_are_configurable() -> None:
    model = tiny_model(tiny_config(width=16, heads=2, kv_heads=1, layers=1))
    loss, _ = model(noisy(model, [text_sample("t", 5, supervised=2)]))
    assert loss.isfinite()
