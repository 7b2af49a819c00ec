"""The vision tower and the merging of view features into visual tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from lladav.config.schema import ModelConfig, VisionConfig
from lladav.inputs.images import (
    ViewGeometry,
    prepare_image,
    prepare_video,
    token_count,
    view_count,
)
from lladav.inputs.packing import pack
from lladav.inputs.samples import IMAGE_PLACEHOLDER, Visual, VisualKind, VisualShape
from lladav.model.llada_v import LLaDAV
from lladav.model.vision import VisionTower, merge_views
from tests.lladav.build import prompt_sample, tiny_config, tiny_model, variant

IMAGE_PROMPT = [240, 5, IMAGE_PLACEHOLDER, 9, 10]
VIDEO_PROMPT = [240, IMAGE_PLACEHOLDER, 7]
"""Defined by the README of the golden files."""


def test_golden_embeddings_of_one_image(golden: Any, released: LLaDAV) -> None:
    for name in golden.cases["anyres_tokens"]:
        visual = prepare_image(golden_image(golden, name), VisualKind.tiled, released.geometry)
        assert_embeds(golden, f"embed.{name}", released, IMAGE_PROMPT, [visual])


@pytest.mark.parametrize(
    ("case", "kind"), [("embed.pair", VisualKind.tiled), ("embed.pair_padded", VisualKind.padded)]
)
def test_golden_embeddings_of_several_images(
    golden: Any, released: LLaDAV, case: str, kind: VisualKind
) -> None:
    expected = golden.cases[case]
    marker = golden.cases["embed.pair"]["image_token_index"]
    ids = [IMAGE_PLACEHOLDER if i == marker else i for i in expected["input_ids"]]
    images = [golden_image(golden, f"pair{n}") for n in range(ids.count(IMAGE_PLACEHOLDER))]
    visuals = [prepare_image(image, kind, released.geometry) for image in images]
    embedded = assert_embeds(golden, case, released, ids, visuals)
    assert len(embedded) == expected["length"]


@pytest.mark.parametrize(("case", "per_row"), [("embed.video", False), ("embed.video_grid", True)])
def test_golden_embeddings_of_a_video(golden: Any, released: LLaDAV, case: str, per_row: bool) -> None:
    expected = golden.cases[case]
    model = variant(released, images=replace(released.config.images, newline_per_frame_row=per_row))
    frames = [golden_image(golden, f"frame{n}") for n in range(expected["frames"])]
    clip = prepare_video(frames, model.geometry)
    embedded = assert_embeds(golden, case, model, VIDEO_PROMPT, [clip])
    assert len(embedded) == expected["length"]


def assert_embeds(golden: Any, case: str, model: LLaDAV, ids: list[int], visuals: list[Visual]) -> Tensor:
    with torch.no_grad():
        embedded = model.embed(pack([prompt_sample(ids, visuals)], model.geometry))
    rows, values = golden.tensors[f"{case}.rows"], golden.tensors[f"{case}.values"]
    torch.testing.assert_close(embedded[rows], values, atol=1e-4, rtol=0, msg=lambda m: f"{case}: {m}")
    return embedded


def golden_image(golden: Any, name: str) -> Image.Image:
    return Image.open(golden.folder / "images" / f"{name}.png").convert("RGB")


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(list(VisualKind)), st.booleans())
@settings(max_examples=60)
def test_the_number_of_merged_tokens_follows_from_the_size(
    width: int, height: int, kind: VisualKind, published: bool
) -> None:
    geometry = ViewGeometry.of(ModelConfig() if published else tiny_config())
    assert_count(width, height, kind, geometry)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (100000, 1), (1, 100000), (1, 1)])
def test_merged_tokens_of_extreme_sizes(size: tuple[int, int]) -> None:
    for config in (ModelConfig(), tiny_config()):
        assert_count(*size, VisualKind.tiled, ViewGeometry.of(config))


def assert_count(width: int, height: int, kind: VisualKind, geometry: ViewGeometry) -> None:
    views = view_count(kind, width, height, geometry)
    features = torch.zeros(views, geometry.side**2, 2)
    shape = VisualShape(kind, width, height, views)
    merged = merge_views(features, [shape], torch.ones(2), geometry)
    assert len(merged) == token_count(shape, geometry)


def test_tiled_rows_end_in_a_newline() -> None:
    geometry = ViewGeometry.of(tiny_config())
    side, shape = geometry.side, VisualShape(VisualKind.tiled, geometry.tile * 2, geometry.tile, 3)
    tokens = merge_views(torch.zeros(3, side**2, 1), [shape], torch.ones(1), geometry).flatten()
    rows = tokens[side**2 :].unflatten(0, (side, 2 * side + 1))
    assert tokens[: side**2].eq(0).all()
    assert rows[:, :-1].eq(0).all()
    assert rows[:, -1].eq(1).all()


def test_tiles_are_stitched_where_they_were_cut() -> None:
    geometry = ViewGeometry.of(tiny_config())
    side, shape = geometry.side, VisualShape(VisualKind.tiled, geometry.tile * 2, geometry.tile * 2, 5)
    number_of_tile = torch.arange(5.0)[:, None, None].expand(5, side**2, 1)
    tokens = merge_views(number_of_tile, [shape], torch.zeros(1), geometry).flatten()
    stitched = tokens[side**2 :].unflatten(0, (2 * side, 2 * side + 1))[:, :-1]
    corners = [stitched[0, 0], stitched[0, -1], stitched[-1, 0], stitched[-1, -1]]
    assert [corner.item() for corner in corners] == [1, 2, 3, 4]


def test_a_square_image_has_only_its_patches() -> None:
    model = tiny_model()
    visual = prepare_image(Image.new("RGB", (9, 9)), VisualKind.square, model.geometry)
    assert token_count(visual.shape, model.geometry) == model.geometry.side**2


def test_feature_layer_counts_from_the_last_layer() -> None:
    shape = {"image_size": 14, "patch_size": 7, "width": 8, "mlp_width": 8, "heads": 2, "layers": 3}
    for feature_layer, built in ((-1, 3), (-2, 2), (-3, 1)):
        tower = VisionTower(VisionConfig(**shape, feature_layer=feature_layer))
        assert len(tower.vision_model.encoder.layers) == built


@pytest.mark.parametrize("checkpointed", [False, True])
def test_features_and_gradients_equal_those_of_transformers(checkpointed: bool) -> None:
    shape = {"image_size": 14, "patch_size": 7, "width": 8, "mlp_width": 12, "heads": 2, "layers": 3}
    tower, released = VisionTower(VisionConfig(**shape, feature_layer=-2)), released_tower()
    tower.vision_model.load_state_dict(released.state_dict(), strict=False)
    tower.checkpoint_activations(checkpointed)
    views = torch.randint(0, 256, (2, 3, 14, 14), dtype=torch.uint8)
    hidden = released(views.float() / 127.5 - 1, output_hidden_states=True).hidden_states
    features = tower(views)
    torch.testing.assert_close(features, hidden[-2])
    features.square().sum().backward()
    hidden[-2].square().sum().backward()
    expected = {name: parameter.grad for name, parameter in released.named_parameters()}
    for name, parameter in tower.vision_model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def released_tower() -> SiglipVisionModel:
    """The tower of transformers with three layers and random weights."""
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    tower = SiglipVisionModel(SiglipVisionConfig(image_size=14, patch_size=7, vision_use_head=False, **sizes))
    for number, parameter in enumerate(tower.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    return tower
