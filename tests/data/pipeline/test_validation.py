"""Held-out samples: never trained on, the same for every seed, and read once by one of the ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.manifest.manifest import Manifest, open_manifest
from data.pipeline.contents import epoch_contents
from data.pipeline.plan import Plan
from data.pipeline.validation import HeldOutBatch, ValidationSet, validation_settings
from lladav.config.schema import Config, SourceConfig, ValidationConfig
from lladav.errors import UserError
from tests.data.build import image_file, json_source, record, settings

RECORDS = 40
IMAGES = {"a.png": image_file(30, 30), "b.png": image_file(20, 40, seed=1)}


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    records = [record(str(n), *[["a.png"], ["b.png"], []][n % 3]) for n in range(RECORDS)]
    return json_source(tmp_path, records, IMAGES)


@pytest.fixture
def config(tmp_path: Path, tokenizer: Path, source: SourceConfig) -> Config:
    config = settings(tmp_path, tokenizer, {"mine": source, "other": source})
    config.data.validation = ValidationConfig(share=0.25)
    return config


def trained_on(manifest: Manifest, config: Config) -> set[int]:
    plan = Plan.of(manifest, config)
    return {int(row) % len(manifest) for step in range(plan.steps) for row in plan.global_batch(step)}


def test_held_out_samples_are_all_others_than_those_of_the_epochs(config: Config) -> None:
    manifest = open_manifest(config)
    held_out = set(ValidationSet.of(manifest, config).rows.tolist())
    assert held_out.isdisjoint(trained_on(manifest, config))
    assert held_out | trained_on(manifest, config) == set(range(2 * RECORDS))
    assert 10 < len(held_out) < 30
    assert {int(manifest.sources[row]) for row in held_out} == {0, 1}


def test_what_is_held_out_depends_on_the_share_alone(config: Config) -> None:
    manifest = open_manifest(config)
    rows = ValidationSet.of(manifest, config).rows
    config.train.seed, config.data.fraction = 7, 0.5
    assert ValidationSet.of(manifest, config).rows.tolist() == rows.tolist()
    config.data.validation.share = 0.1
    assert set(ValidationSet.of(manifest, config).rows) < set(rows)


def test_copies_of_held_out_samples_are_not_trained_on(config: Config) -> None:
    config.data.sources["mine"] = replace(config.data.sources["mine"], repeat=2.5)
    manifest = open_manifest(config)
    assert set(ValidationSet.of(manifest, config).rows.tolist()).isdisjoint(trained_on(manifest, config))


def test_the_contents_of_an_epoch_do_not_count_held_out_samples(config: Config) -> None:
    manifest = open_manifest(config)
    kept = len(trained_on(manifest, config) & set(range(RECORDS)))
    assert next(epoch_contents(config, manifest)).startswith(f"mine: {kept} of {kept} samples")


def test_a_source_for_validation_is_read_by_the_settings_of_the_stage(config: Config) -> None:
    config.stage.sources = ["mine"]
    config.data.validation = ValidationConfig(sources=["other"], samples=30)
    manifest = open_manifest(validation_settings(config))
    assert len(manifest) == RECORDS
    held_out = ValidationSet.of(manifest, config)
    assert len(held_out) == 30
    config.data.sources["other"].sample = "first:5"
    assert sorted(ValidationSet.of(manifest, config).rows.tolist()) == [0, 1, 2, 3, 4]


def batches(held_out: ValidationSet, workers: int) -> list[list[HeldOutBatch]]:
    return [[*held_out.batches(2, rank, workers)] for rank in range(workers)]


@pytest.mark.parametrize("workers", [1, 3])
def test_ranks_read_each_sample_once_in_equally_many_micro_batches(config: Config, workers: int) -> None:
    held_out = ValidationSet.of(open_manifest(config), config)
    ranks = batches(held_out, workers)
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(batch.samples) <= 2 for rank in ranks for batch in rank)
    positions = [position for rank in ranks for batch in rank for position in batch.positions]
    assert sorted(positions) == list(range(len(held_out)))


def test_a_sample_that_cannot_be_read_keeps_the_numbers_of_the_others(config: Config, tmp_path: Path) -> None:
    held_out = ValidationSet.of(open_manifest(config), config)
    before = {batch.samples[0].id: batch.positions[0] for batch in held_out.batches(1, 0, 1)}
    (tmp_path / "images" / "a.png").write_bytes(b"damaged")
    [after] = batches(held_out, 1)
    assert any(batch.rejected for batch in after)
    for batch in after:
        assert [before[sample.id] for sample in batch.samples] == batch.positions


def test_a_share_of_nothing_is_refused(config: Config) -> None:
    config.data.validation.share = 1e-9
    with pytest.raises(UserError, match=r"data\.validation: no sample of 80 is held out"):
        ValidationSet.of(open_manifest(config), config)


def test_hashes_are_spread_evenly(config: Config) -> None:
    hashes = open_manifest(config).held_out_hashes
    assert len(np.unique(hashes)) == 2 * RECORDS
    assert 0.35 < hashes.mean() < 0.65
