"""A micro-batch is unchanged after conversion to a table and back: text alone, one image, several images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.manifest.manifest import Manifest, open_manifest
from data.pipeline.microbatches import MicroBatch, build_row, to_batch
from data.pipeline.plan import MicroBatchPlan
from data.pipeline.reading import SampleReader, read_samples
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED
from tests.data import build

RECORDS = [
    *build.RECORDS,
    build.record("broken", "broken.jpg"),
]


@pytest.fixture
def manifest(tmp_path: Path, tokenizer: Path) -> Manifest:
    jpeg = build.image_file(90, 60, suffix="JPEG")
    source = build.json_source(tmp_path, RECORDS, build.IMAGES | {"broken.jpg": jpeg[: len(jpeg) // 2]})
    return open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))


def micro_batch(manifest: Manifest, rows: list[int]) -> MicroBatch:
    """The micro-batch of these rows, converted to a table and back."""
    return to_batch(build_row(SampleReader(manifest), planned(rows)), manifest.spec.geometry.tile)


def planned(rows: list[int]) -> MicroBatchPlan:
    """These rows, at positions 10 higher in the global batch."""
    return MicroBatchPlan(5, 1, 2, 3, 40, np.array(rows, np.int64), np.array(rows, np.int64) + 10)


def test_samples_are_unchanged(manifest: Manifest) -> None:
    batch = micro_batch(manifest, [2, 0, 3, 1])
    assert (batch.step, batch.epoch, batch.micro_step, batch.rank, batch.global_samples) == (5, 1, 2, 3, 40)
    assert batch.positions.tolist() == [12, 10, 13, 11]
    assert not batch.is_blank
    for ours, theirs in zip(batch.samples, read_samples(manifest, [2, 0, 3, 1]), strict=True):
        assert ours.id == theirs.id
        for name in ("input_ids", "labels", "turns", "answer"):
            left, right = getattr(ours.text, name), getattr(theirs.text, name)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        for left, right in zip(ours.visuals, theirs.visuals, strict=True):
            assert left.shape == right.shape
            np.testing.assert_array_equal(left.views, right.views)


def test_views_are_not_copied(manifest: Manifest) -> None:
    table = build_row(SampleReader(manifest), planned([1, 2]))
    pixels = np.frombuffer(table["pixels"].chunk(0).buffers()[2], np.uint8)
    batch = to_batch(table, manifest.spec.geometry.tile)
    assert all(np.shares_memory(v.views, pixels) for sample in batch.samples for v in sample.visuals)


def test_a_damaged_sample_becomes_a_reject_of_its_micro_batch(manifest: Manifest) -> None:
    batch = micro_batch(manifest, [1, 4, 0])
    assert [sample.id for sample in batch.samples] == ["s:records.json#1", "s:records.json#0"]
    assert batch.positions.tolist() == [11, 10]
    assert batch.global_samples == 40
    (reject,) = batch.rejected
    assert (reject.sample, reject.record, reject.reason) == ("s:records.json#4", "broken", "bad_image")
    assert "broken.jpg" in reject.detail
    assert reject.where.endswith(f"records.json, byte {manifest.row(4)['position']}")


@pytest.mark.parametrize("rows", [[], [4]])
def test_a_micro_batch_without_samples_has_a_blank_one(manifest: Manifest, rows: list[int]) -> None:
    batch = micro_batch(manifest, rows)
    assert batch.is_blank
    assert len(batch.rejected) == len(rows)
    packed = pack(batch.samples, manifest.spec.geometry)
    assert packed.lengths == [1]
    assert (packed.labels_T == IGNORED).all()
