"""The tiny towers: trained if missing, in the released layouts, with the same weights each time."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from data.digits import glyphs
from data.digits.views import labelled_views
from lladav.checkpoint import load, model_config_of, open_model, shipped_model
from lladav.config.loader import load as load_config
from lladav.config.schema import Config, ModelPart, Prediction
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.model.llada_v import LLaDAV
from tests.digits import shared_digits
from train.towers import PARTS, build, folder_of, pretrain_tower, take_shipped
from train.toy_towers.fit import Fit, fit, shuffled
from train.toy_towers.muon import Muon, orthogonalized

SHORT = 0.01
"""Length of the pretraining relative to the real one."""


@pytest.fixture(scope="module")
def data() -> Path:
    return shared_digits()


def settings(data: Path, towers: Path, model: str = "model=tiny") -> Config:
    return load_config(
        [
            model,
            "data=digits",
            f"data.root={data}",
            f"model.tokenizer={data}/tokenizer",
            f"model.weights.language={towers}/language",
            f"model.weights.vision={towers}/vision",
        ]
    )


def weights(config: Config) -> dict[str, torch.Tensor]:
    model = LLaDAV(config.model)
    for folder in (config.model.weights.language, config.model.weights.vision):
        load(model, str(folder))
    return {name: p.detach() for name, p in model.named_parameters() if not name.startswith(("proj", "newl"))}


@pytest.mark.slow
def test_towers_are_trained_once_and_reproducibly(data: Path, tmp_path: Path):
    first, second = settings(data, tmp_path / "a"), settings(data, tmp_path / "b")
    build(first, dict.fromkeys(PARTS, SHORT))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    build(first, dict.fromkeys(PARTS, SHORT))
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    again_in_this_process(second)
    again = weights(second)
    for name, value in weights(first).items():
        assert torch.equal(value, again[name]), name
    assert ChatTokenizer.load(tmp_path / "a/language").ids == first.model.tokens


def again_in_this_process(config: Config) -> None:
    """Pretrain both towers without the processes that ``build`` starts, which takes half the time."""
    threads = torch.get_num_threads()
    try:
        for part in PARTS:
            pretrain_tower(
                config, part, folder_of(config.model, part), max(1, (os.cpu_count() or 1) // 2), SHORT
            )
    finally:
        torch.set_num_threads(threads)


def test_the_tower_of_an_autoregressive_model_has_the_layout_of_llama(data: Path, tmp_path: Path):
    config = settings(data, tmp_path, "model=tiny_ar")
    language = folder_of(config.model, ModelPart.language)
    pretrain_tower(config, ModelPart.language, language, threads=1, scale=SHORT)
    assert AutoConfig.from_pretrained(language).model_type == "llama"
    assert model_config_of(language).prediction is Prediction.next_token


def test_a_large_model_is_refused(data: Path, tmp_path: Path):
    config = settings(data, tmp_path)
    config.model.language.width = 4096
    with pytest.raises(UserError, match="download its towers"):
        build(config)


def test_a_tower_without_a_folder_is_refused(data: Path, tmp_path: Path):
    config = settings(data, tmp_path)
    config.model.weights.vision = None
    with pytest.raises(UserError, match=r"model\.weights\.vision"):
        build(config)


def test_a_tower_of_another_tokenizer_is_refused(data: Path, tmp_path: Path):
    for part in ("vision", "language"):
        (tmp_path / part).mkdir()
    (tmp_path / "language/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="remove it to train a new one"):
        build(settings(data, tmp_path))


def test_pretraining_views_show_training_glyphs_only():
    views = labelled_views(glyphs.training_pool(), 20, geometry(), seed=1)
    shown = set(np.unique(views.glyphs)) - {-1}
    assert shown
    assert shown <= set(glyphs.training_pool().indices.tolist())
    assert len(views.views) == len(views.middles) == len(views.is_base)
    assert np.array_equal(views.from_left >= 0, views.glyphs >= 0)


def test_an_epoch_shows_each_sample_once():
    first = torch.cat([shuffled(12, 4, step, seed=3) for step in range(3)])
    second = torch.cat([shuffled(12, 4, step, seed=3) for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_orthogonalized_brings_singular_values_near_one():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    for shaped in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalized(shaped))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_muon_descends():
    weight = torch.nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (weight - 2 * torch.eye(4)).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_fit_lowers_a_loss_and_leaves_frozen_weights_alone():
    torch.manual_seed(0)
    first, last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([first, last])})
    named = [(f"x.{name}", parameter) for name, parameter in layers.named_parameters()]
    named[-1][1].requires_grad_(False)
    frozen, inputs = named[-1][1].clone(), torch.randn(16, 4)
    losses: list[float] = []

    def loss_at(_: int) -> torch.Tensor:
        loss = (last(first(inputs)) - inputs).square().mean()
        losses.append(loss.item())
        return loss

    fit("test", named, Fit(steps=60, batch=1, adam_lr=1e-2, muon_lr=1e-2), loss_at)
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(frozen, named[-1][1])


def geometry() -> ViewGeometry:
    return ViewGeometry(
        tile=40, side=4, grid=6, shrink_above_views=4, frame_side=2, newline_per_frame_row=True
    )


def test_the_towers_of_the_shipped_model_are_taken(data: Path, tmp_path: Path):
    config = settings(data, tmp_path)
    take_shipped(config)
    taken, shipped = weights(config), open_model(shipped_model(), torch.float32)
    for name, value in taken.items():
        assert torch.equal(value, shipped.get_parameter(name)), name


def test_another_tower_than_the_shipped_one_is_not_taken(data: Path, tmp_path: Path):
    config = settings(data, tmp_path, "model=tiny_ar")
    take_shipped(config)
    assert (tmp_path / "vision").is_dir()
    assert not (tmp_path / "language").exists()
