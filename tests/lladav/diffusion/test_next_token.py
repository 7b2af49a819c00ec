"""Next-token prediction equals ``LlamaForCausalLM`` of transformers: logits, loss and gradients."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lladav.diffusion.next_token import shift
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import PackedBatch, pack
from lladav.inputs.samples import IGNORED, Encoded, Sample
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import image_sample, packed_logits, text_of, text_sample, tiny_ar_config, tiny_model
from tests.lladav.llama import llama_name, random_llama, same_model

Pair = tuple[LlamaForCausalLM, LLaDAV]


@pytest.fixture(scope="module", params=[4, 2, 1], ids=lambda heads: f"{heads} key heads")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random Llama, and our model with its weights."""
    llama = random_llama(request.param)
    return llama, same_model(llama, tmp_path_factory.mktemp("llama"))


assert_close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-4)


def samples() -> list[Sample]:
    """Samples of different lengths; the labels of the second have gaps and begin at its first position."""
    ids = np.arange(3, 15, dtype=np.int32)
    labels = np.where(np.arange(12) % 5 < 2, ids, IGNORED).astype(np.int32)
    gaps = Sample("gaps", Encoded(ids, labels, np.zeros_like(ids), labels != IGNORED))
    return [text_sample("long", 31, seed=1, supervised=13), gaps, text_sample("short", 7, 2, supervised=1)]


def rows_of(packed: PackedBatch) -> list[tuple[Tensor, Tensor]]:
    """Ids and labels of each sample, as a batch of one."""
    parts = zip(*(x.split(packed.lengths) for x in (packed.token_ids_T, packed.labels_T)), strict=True)
    return [(ids[None], labels[None]) for ids, labels in parts]


def test_logits_of_packed_samples_are_those_of_each_alone(pair: Pair) -> None:
    llama, model = pair
    packed = pack(samples(), model.geometry)
    with torch.no_grad():
        expected = torch.cat([llama(ids).logits[0] for ids, _ in rows_of(packed)])
    assert_close(packed_logits(model, packed), expected)


def test_loss_and_gradients(pair: Pair) -> None:
    """The mean over the samples of the loss that transformers computes for a batch of one."""
    llama, model = pair
    packed = pack(samples(), model.geometry)
    losses = [llama(input_ids=ids, labels=labels).loss for ids, labels in rows_of(packed)]
    expected = torch.stack(losses).mean()
    loss, entropy_M = model(shift(packed, scale=1 / len(losses), chunk=4))
    assert_close(loss, expected)
    assert entropy_M.shape == (13 + 5 + 1,)
    ours, theirs = gradients(loss, model.language), gradients(expected, llama)
    assert {llama_name(name) for name in ours} == theirs.keys()
    for name, gradient in ours.items():
        assert_close(gradient, theirs[llama_name(name)], msg=name)


def gradients(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    named = dict(module.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_the_loss_does_not_depend_on_micro_batches() -> None:
    model = tiny_model(tiny_ar_config())
    whole = model(shift(pack(samples(), model.geometry), 1 / 3, chunk=100))[0]
    parts = [model(shift(pack([sample], model.geometry), 1 / 3, chunk=3))[0] for sample in samples()]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_a_token_is_predicted_from_the_position_before_it() -> None:
    batch = shifted([text_of([5, 6, 7, 8], slice(2, 4)), text_of([9, 10], slice(0, 2))])
    assert batch.predicted_M.tolist() == [2, 3, 5], "the first position of a sample has none before it"
    assert batch.output_positions_M.tolist() == [1, 2, 4]
    assert batch.sample_M.tolist() == [0, 0, 1]
    assert batch.rows.targets_M.tolist() == [7, 8, 10]
    assert batch.rows.weights_M.tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert batch.levels_S is None
    assert batch.packed.token_ids_T.tolist() == [5, 6, 7, 8, 9, 10], "nothing is masked"


def shifted(texts: list[Encoded]) -> TrainingBatch:
    geometry = tiny_model(tiny_ar_config()).geometry
    return shift(pack([Sample("s", text) for text in texts], geometry), scale=0.5, chunk=8)


def test_the_first_answer_token_behind_an_image_is_predicted_from_the_image() -> None:
    model = tiny_model(tiny_ar_config())
    packed = pack([image_sample("i", model.geometry, [(40, 30)])], model.geometry)
    last_visual = int(packed.visual_positions_V[-1])
    packed.labels_T[last_visual + 1] = packed.token_ids_T[last_visual + 1]
    batch = shift(packed, 1.0, chunk=8)
    assert batch.output_positions_M[0] == last_visual
    model(batch)[0].backward()
    gradient = dict(model.named_parameters())["projector.0.weight"].grad
    assert gradient is not None
    assert gradient.ne(0).any()


def test_a_batch_without_supervised_tokens_has_a_loss_of_zero() -> None:
    model = tiny_model(tiny_ar_config())
    loss, entropy_M = model(shift(pack([text_sample("t", 5)], model.geometry), 1.0, chunk=8))
    loss.backward()
    assert (loss.item(), len(entropy_M)) == (0.0, 0)
