"""Samples are read with the views that the released trainer takes; damaged media are bad samples."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from data.manifest.manifest import open_manifest
from data.pipeline.reading import read_samples
from data.records.record import BadSample, errors_as_bad_sample
from lladav.config.schema import Pixels
from lladav.inputs.clips import clip_header
from lladav.inputs.image_files import image_size, read_image
from lladav.inputs.samples import Sample, VisualKind, VisualShape
from tests.data import build
from tests.lladav.inputs import recorded


def animation_sample(content: bytes, root: Path, tokenizer: Path) -> Sample:
    """The sample of a record with this animation."""
    turns = build.turns("<video>\nWhat happens?", "It brightens.")
    record = {"id": "r", "video": "a.gif", "conversations": turns}
    source = build.json_source(root, [record], {"a.gif": content})
    manifest = open_manifest(build.settings(root, tokenizer, {"source": source}))
    return next(read_samples(manifest, [0]))


def test_an_animation_is_sampled_at_one_frame_per_second(tmp_path: Path, tokenizer: Path) -> None:
    (visual,) = animation_sample(build.animation_file(6, 500), tmp_path, tokenizer).visuals
    assert visual.shape == VisualShape(VisualKind.video, 30, 20, 3)
    assert [int(view[0, 5, 5]) for view in visual.views] == [0, 20, 40]


def test_a_long_animation_is_sampled_evenly_up_to_the_limit(tmp_path: Path, tokenizer: Path) -> None:
    (visual,) = animation_sample(build.animation_file(10, 1000), tmp_path, tokenizer).visuals
    assert [int(view[0, 5, 5]) for view in visual.views] == [0, 30, 60, 90]


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_is_a_bad_sample(suffix: str) -> None:
    content = build.image_file(80, 60, suffix=suffix)
    stream = io.BytesIO(content[: len(content) // 2])
    with pytest.raises(BadSample, match=r"bad_image: a\.img: "), errors_as_bad_sample():
        read_image(stream, "a.img", Pixels.displayed)


@pytest.mark.parametrize("content", [b"not an image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_file_that_is_not_an_image_is_a_bad_sample(content: bytes) -> None:
    with pytest.raises(BadSample, match="bad_image"), errors_as_bad_sample():
        image_size(io.BytesIO(content), "a.img", Pixels.displayed)


def test_a_truncated_video_is_a_bad_sample() -> None:
    content = recorded.video(recorded.KINDS["mp4 h264"], 8)
    with pytest.raises(BadSample, match="bad_image"), errors_as_bad_sample():
        clip_header(io.BytesIO(content[: len(content) // 2]), "a.mp4")


def test_a_copy_of_a_sample_has_its_own_id(tmp_path: Path, tokenizer: Path) -> None:
    source = build.json_source(tmp_path, [build.record("a"), build.record("b")], {})
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    first, copy = read_samples(manifest, [1, 1 + 2 * 2])
    assert (first.id, copy.id) == ("source:records.json#1", "source:records.json#1~2")
    assert first.text.input_ids.tolist() == copy.text.input_ids.tolist()
