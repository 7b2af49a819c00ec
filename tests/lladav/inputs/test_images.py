"""Tiling, padding and token counts."""

from __future__ import annotations

import re
import resource
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lladav.config.schema import ModelConfig
from lladav.errors import UserError
from lladav.inputs.images import (
    PAD_GREY,
    ViewGeometry,
    choose_grid,
    inference_frames,
    merge_geometry,
    pad_to_square,
    prepare_image,
    prepare_video,
    sample_frames,
    spread_frames,
    token_count,
    view_count,
)
from lladav.inputs.samples import VisualKind, VisualShape
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import noise_image, tiny_config

PUBLISHED = ViewGeometry.of(ModelConfig())


def test_golden_grids(golden: Any, released: LLaDAV) -> None:
    expected = golden.cases["anyres_grid"]
    sizes = {name: tuple(map(int, name.split("x"))) for name in expected}
    assert {n: list(choose_grid(w, h, released.geometry)) for n, (w, h) in sizes.items()} == expected


def test_golden_tiles(golden: Any, released: LLaDAV) -> None:
    for name, expected in golden.cases["anyres_tokens"].items():
        visual = prepare_image(golden_image(golden, name), VisualKind.tiled, released.geometry)
        pixels = normalised(visual.views)
        assert len(visual.views) == expected["tiles"], name
        assert token_count(visual.shape, released.geometry) == expected["image_tokens"], name
        assert pixels.mean((1, 2, 3)).tolist() == pytest.approx(expected["tile_mean"], abs=1e-5), name
        assert pixels.std((1, 2, 3)).tolist() == pytest.approx(expected["tile_std"], abs=1e-5), name


def test_golden_pixels(golden: Any, released: LLaDAV) -> None:
    recorded = {n: t for n, t in golden.tensors.items() if n.startswith("tiles.")}
    assert recorded
    for name, expected in recorded.items():
        parts = re.fullmatch(r"tiles\.(.+)\.tile(\d+)_rows", name)
        assert parts is not None, name
        visual = prepare_image(golden_image(golden, parts[1]), VisualKind.tiled, released.geometry)
        assert is_thinned(expected, normalised(visual.views[int(parts[2])])), name


def is_thinned(recorded: Tensor, pixels: Tensor) -> bool:
    """Whether the recorded pixels are every n-th row and column, for some n."""
    strides = range(1, pixels.shape[-1] + 1)
    thinned = (pixels[:, ::n, ::n] for n in strides)
    return any(t.shape == recorded.shape and torch.allclose(t, recorded, atol=1e-5) for t in thinned)


def golden_image(golden: Any, name: str) -> Image.Image:
    return Image.open(golden.folder / "images" / f"{name}.png").convert("RGB")


def normalised(views: np.ndarray) -> Tensor:
    return torch.from_numpy(views).float() / 127.5 - 1


@pytest.mark.parametrize(
    ("width", "height", "views", "tokens"),
    [(384, 384, 2, 1485), (640, 480, 5, 2929), (1920, 1080, 16, 3649), (2048, 2048, 37, 3699)],
)
def test_published_token_counts(width: int, height: int, views: int, tokens: int) -> None:
    assert view_count(VisualKind.tiled, width, height, PUBLISHED) == views
    assert token_count(VisualShape(VisualKind.tiled, width, height, views), PUBLISHED) == tokens


@given(st.integers(1, 20000), st.integers(1, 20000))
@settings(max_examples=300)
def test_every_size_keeps_part_of_the_image(width: int, height: int) -> None:
    for geometry in (PUBLISHED, ViewGeometry.of(tiny_config())):
        merge = merge_geometry(width, height, geometry)
        assert merge.rows * geometry.side > 2 * merge.top
        assert merge.columns * geometry.side > 2 * merge.left
        assert merge.height >= 1
        assert merge.width >= 1


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (100000, 1), (1, 1)])
def test_extreme_sizes_keep_part_of_the_image(size: tuple[int, int]) -> None:
    merge = merge_geometry(*size, PUBLISHED)
    assert min(merge.height, merge.width) >= 1


@given(st.integers(1, 6000), st.integers(1, 6000))
@settings(max_examples=200)
def test_worst_token_count_is_bounded(width: int, height: int) -> None:
    views = view_count(VisualKind.tiled, width, height, PUBLISHED)
    assert token_count(VisualShape(VisualKind.tiled, width, height, views), PUBLISHED) <= 4500


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([VisualKind.square, VisualKind.tiled]))
@settings(max_examples=50)
def test_view_count_matches_the_views(width: int, height: int, kind: VisualKind) -> None:
    geometry = ViewGeometry.of(tiny_config())
    visual = prepare_image(noise_image(width, height), kind, geometry)
    tile = geometry.tile
    assert visual.views.shape == (view_count(kind, width, height, geometry), 3, tile, tile)
    assert visual.views.dtype == np.uint8


def test_base_view_is_the_squashed_image() -> None:
    geometry = ViewGeometry.of(tiny_config())
    image = noise_image(50, 40)
    squashed = image.resize((geometry.tile, geometry.tile), Image.Resampling.BICUBIC)
    base = prepare_image(image, VisualKind.tiled, geometry).views[0]
    assert np.array_equal(base, np.asarray(squashed).transpose(2, 0, 1))


def test_tiles_are_cut_row_by_row_from_the_image_on_black() -> None:
    geometry = ViewGeometry.of(tiny_config())
    tile = geometry.tile
    visual = prepare_image(Image.new("RGB", (2 * tile, tile), "white"), VisualKind.tiled, geometry)
    assert visual.views[1:].min() == 255
    tall = prepare_image(Image.new("RGB", (tile, 2 * tile - 10), "white"), VisualKind.tiled, geometry)
    upper, lower = tall.views[1:]
    assert upper[:, :5].max() == 0
    assert lower[:, -5:].max() == 0
    assert upper[:, 5:].min() == 255


def test_padding_to_a_square_is_grey_and_centered() -> None:
    square = np.asarray(pad_to_square(Image.new("RGB", (10, 4), "white")))
    assert square.shape == (10, 10, 3)
    assert (square[:3] == PAD_GREY).all()
    assert (square[3:7] == 255).all()
    assert (square[7:] == PAD_GREY).all()


def test_video_has_one_view_per_frame() -> None:
    geometry = ViewGeometry.of(tiny_config())
    clip = prepare_video([noise_image(30, 20, seed) for seed in range(3)], geometry)
    row = geometry.frame_side + 1
    assert len(clip.views) == 3
    assert token_count(clip.shape, geometry) == 3 * geometry.frame_side * row


def test_golden_training_frames(golden: Any) -> None:
    for case in golden.cases["video_frames"]:
        found = sample_frames(case["frames"], case["fps"], case["frames_per_second"], case["limit"])
        assert found == case["indices"], case


@given(st.integers(1, 5000), st.floats(0.01, 1000), st.floats(0.01, 100), st.integers(1, 64))
def test_training_frames_are_limited_and_ordered(total: int, rate: float, wanted: float, limit: int) -> None:
    found = sample_frames(total, rate, wanted, limit)
    assert found[0] == 0
    assert found == sorted(set(found))
    assert found[-1] < total
    assert len(found) <= limit


def test_inference_frames_are_spread_over_the_whole_clip() -> None:
    assert inference_frames(100, 4) == [0, 33, 66, 99]
    assert inference_frames(3000, 32)[-1] == 2999
    assert inference_frames(3, 32) == [0, 1, 2]
    assert inference_frames(100, 1) == [0]


def test_frames_of_a_short_folder_repeat() -> None:
    assert spread_frames(12, 10) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert spread_frames(2, 4) == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", list(VisualKind)[:3])
@pytest.mark.parametrize("size", [(40, 60_000), (60_000, 40), (1, 4_000_000), (4_000_000, 1)])
def test_a_strip_of_any_length_needs_little_memory(size: tuple[int, int], kind: VisualKind) -> None:
    image, before = Image.new("RGB", size, "red"), peak()
    visual = prepare_image(image, kind, PUBLISHED)
    assert (visual.shape.width, visual.shape.height) == size
    assert len(visual.views) == view_count(kind, *size, PUBLISHED)
    assert peak() - before < 400 * 2**20


def peak() -> int:
    """The peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("size", [(1000, 3000), (10, 8192), (384, 384), (100, 7)])
def test_an_image_up_to_8192_pixels_is_padded_at_full_size(size: tuple[int, int]) -> None:
    image = noise_image(*size)
    expected = pad_to_square(image).resize((PUBLISHED.tile, PUBLISHED.tile), Image.Resampling.BICUBIC)
    (view,) = prepare_image(image, VisualKind.padded, PUBLISHED).views
    assert np.array_equal(view, np.asarray(expected).transpose(2, 0, 1))


def test_a_longer_image_is_shrunk_before_it_is_padded() -> None:
    image = Image.new("RGB", (12_000, 3000), "red")
    (view,) = prepare_image(image, VisualKind.padded, PUBLISHED).views
    assert (view[:, 0] == PAD_GREY).all()
    assert (view[:, 192] == np.array([255, 0, 0])[:, None]).all()


def test_video_without_frames_is_refused() -> None:
    with pytest.raises(UserError, match="no frames"):
        prepare_video([], PUBLISHED)


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="0x5"):
        prepare_image(Image.new("RGB", (0, 5)), VisualKind.tiled, PUBLISHED)
