"""Samples as one packed batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lladav.errors import UserError
from lladav.inputs.images import ViewGeometry, prepare_image, token_count
from lladav.inputs.packing import expand_placeholders, pack
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, VisualKind
from tests.lladav.build import image_sample, noise_image, text_of, text_sample, tiny_config

GEOMETRY = ViewGeometry.of(tiny_config())


def test_samples_are_concatenated() -> None:
    first, second = text_sample("a", 4, seed=1, supervised=2), text_sample("b", 3, seed=2)
    packed = pack([first, second], GEOMETRY)
    assert packed.lengths == [4, 3]
    assert packed.token_ids_T.tolist() == [*first.text.input_ids, *second.text.input_ids]
    assert packed.labels_T.tolist() == [*first.text.labels, *second.text.labels]


def test_a_placeholder_is_expanded_to_its_visual_tokens() -> None:
    visual = prepare_image(noise_image(40, 30), VisualKind.tiled, GEOMETRY)
    text = Encoded(
        input_ids=np.array([5, IMAGE_PLACEHOLDER, 6], np.int32),
        labels=np.array([5, 7, 6], np.int32),  # a label at a placeholder is dropped
        turns=np.array([0, 1, 2], np.int32),
        answer=np.array([True, False, True]),
    )
    count = token_count(visual.shape, GEOMETRY)
    expanded = expand_placeholders(Sample("s", text, [visual]), GEOMETRY)
    assert expanded.ids.tolist() == [5, *[0] * count, 6]
    assert expanded.labels.tolist() == [5, *[IGNORED] * count, 6]
    assert expanded.turns.tolist() == [0, *[1] * count, 2]
    assert expanded.answer.tolist() == [True, *[False] * count, True]
    assert expanded.visual.tolist() == [False, *[True] * count, False]


def test_visual_positions_follow_the_samples() -> None:
    image = image_sample("i", GEOMETRY, [(28, 28), (30, 60)])
    packed = pack([text_sample("t", 5), image], GEOMETRY)
    counts = [token_count(visual.shape, GEOMETRY) for visual in image.visuals]
    assert packed.visual_positions_V.tolist() == list(range(5, 5 + sum(counts)))
    assert len(packed.views_NCHW) == sum(shape.views for shape in packed.shapes)


def test_batch_of_text_carries_one_blank_view() -> None:
    packed = pack([text_sample("t", 5)], GEOMETRY)
    assert packed.shapes == []
    assert packed.views_NCHW.shape == (1, 3, GEOMETRY.tile, GEOMETRY.tile)
    assert packed.views_NCHW.max() == 0


@pytest.mark.parametrize("images", [0, 2])
def test_the_number_of_marks_must_match_the_images(images: int) -> None:
    visual = prepare_image(noise_image(8, 8), VisualKind.square, GEOMETRY)
    with pytest.raises(UserError, match=f"sample s: 1 <image> marks for {images} images"):
        expand_placeholders(Sample("s", text_of([1, IMAGE_PLACEHOLDER]), [visual] * images), GEOMETRY)


def test_moving_a_batch_keeps_its_fields() -> None:
    packed = pack([image_sample("i", GEOMETRY, [(28, 28)])], GEOMETRY)
    moved = packed.to("meta")
    assert moved.token_ids_T.device == torch.device("meta")
    assert (moved.lengths, moved.shapes) == (packed.lengths, packed.shapes)
