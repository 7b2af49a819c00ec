"""Each rank's stream through Ray is its part of the plan, from any step on."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.manifest.manifest import Manifest, open_manifest
from data.manifest.quarantine import read_rejects
from data.manifest.ray_map import ray_map
from data.pipeline.microbatches import MicroBatch
from data.pipeline.plan import Plan
from data.pipeline.reading import read_samples
from data.pipeline.streams import MicroBatchSource, SampleStream, TaskShare, rank_dataset, task_share
from data.pipeline.train_data import RankedData, micro_batches, quarantine_of
from lladav.cluster import connect
from lladav.config.schema import ClusterConfig, Config, SourceConfig, SourceFormat
from lladav.errors import UserError
from tests.conftest import Golden
from tests.data import build

BROKEN = 7
"""Number of the record whose image is cut short."""

IMAGES = {f"{n}.png": build.image_file(20 + 11 * (n % 9), 30, seed=n) for n in range(24)}


def records() -> list[dict[str, Any]]:
    """Text alone, one image and two images in turn."""
    names = list(IMAGES)
    kinds = [[], names[:1], names[1:3]]
    made = [build.record(f"r{n}", *kinds[n % 3], answer="word " * (1 + n % 5)) for n in range(22)]
    return [*made[:BROKEN], build.record("broken", "broken.jpg"), *made[BROKEN:]]


pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster for this module."""
    with connect(ClusterConfig()):
        yield


@pytest.fixture(scope="module")
def config(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A stage of 23 samples in global batches of 6: four steps an epoch, the last one of five samples."""
    folder = tmp_path_factory.mktemp("set")
    jpeg = build.image_file(90, 60, suffix="JPEG")
    source = build.json_source(folder, records(), IMAGES | {"broken.jpg": jpeg[: len(jpeg) // 2]})
    config = build.settings(folder, golden.folder / "tokenizer", {"s": source}, global_batch=6, epochs=2)
    config.train.micro_batch = 3
    config.cluster.cpus_per_worker = 0.5
    return config


@pytest.fixture(scope="module")
def manifest(cluster: None, config: Config) -> Manifest:
    del cluster
    return open_manifest(config, mapper=ray_map)


def seen(
    config: Config, manifest: Manifest, folder: Path, rank: int = 0, workers: int = 1, first: int = 0
) -> list[MicroBatch]:
    """All micro-batches that a rank receives."""
    shard = rank_dataset(SampleStream.of(config, manifest, rank, workers, first), config).iterator()
    quarantine = quarantine_of(manifest, folder, rank)
    return list(micro_batches(shard, config, rank, workers, first, quarantine))


def by_step(batches: list[MicroBatch]) -> dict[int, set[tuple[int, str]]]:
    """The samples of each step and their positions in its global batch."""
    steps: dict[int, set[tuple[int, str]]] = {}
    for batch in batches:
        ids = [] if batch.is_blank else [sample.id for sample in batch.samples]
        steps.setdefault(batch.step, set()).update(zip(batch.positions.tolist(), ids, strict=False))
    return steps


def content(batch: MicroBatch) -> list:
    """Everything in a micro-batch that the model uses, as values that can be compared."""
    return [
        (
            sample.id,
            *(getattr(sample.text, name).tolist() for name in ("input_ids", "labels", "turns", "answer")),
            *((v.shape, v.views.tobytes()) for v in sample.visuals),
        )
        for sample in batch.samples
    ]


@pytest.fixture(scope="module")
def whole(config: Config, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[MicroBatch]:
    """The uninterrupted run of one rank."""
    return seen(config, manifest, tmp_path_factory.mktemp("quarantine"))


def test_a_rank_sees_the_plan_in_order(whole: list[MicroBatch], config: Config, manifest: Manifest) -> None:
    plan = Plan.of(manifest, config)
    assert [(b.step, b.micro_step) for b in whole] == list(product(range(8), range(2)))
    assert [b.epoch for b in whole] == [0] * 8 + [1] * 8
    assert [b.global_samples for b in whole] == [6] * 6 + [5] * 2 + [6] * 6 + [5] * 2
    for step, samples in by_step(whole).items():
        for position, name in samples:
            assert manifest.row(int(plan.global_batch(step)[position]))["id"] == name


def test_each_readable_sample_comes_once_per_epoch(whole: list[MicroBatch], manifest: Manifest) -> None:
    for epoch in range(2):
        ids = [s.id for b in whole if b.epoch == epoch for s in b.samples]
        assert sorted(ids) == sorted(manifest.row(n)["id"] for n in range(len(manifest)) if n != BROKEN)


def test_samples_are_those_read_without_ray(whole: list[MicroBatch], manifest: Manifest) -> None:
    rows = {manifest.row(n)["id"]: n for n in range(len(manifest))}
    for batch in whole[:4]:
        samples = list(read_samples(manifest, [rows[s.id] for s in batch.samples]))
        direct = MicroBatch(0, 0, 0, 0, 0, np.zeros(0), samples, [])
        assert content(direct) == content(batch)


@pytest.mark.parametrize("first", [3, 5])
def test_a_stream_from_any_step_on_is_identical(
    first: int, whole: list[MicroBatch], config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    rest = seen(config, manifest, tmp_path, first=first)
    expected = [batch for batch in whole if batch.step >= first]
    found, expected = ([(b.step, b.micro_step, content(b)) for b in each] for each in (rest, expected))
    assert found == expected


def test_a_stream_after_the_last_step_is_empty(config: Config, manifest: Manifest, tmp_path: Path) -> None:
    assert seen(config, manifest, tmp_path, first=8) == []


def test_two_ranks_have_the_same_global_batches(
    whole: list[MicroBatch], config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    ranks = [seen(config, manifest, tmp_path, rank, workers=2, first=2) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 6
    together = by_step(ranks[0] + ranks[1])
    assert together == {step: samples for step, samples in by_step(whole).items() if step >= 2}


def test_a_damaged_sample_is_quarantined_once_however_often_it_is_read(
    config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    for _ in range(2):
        seen(config, manifest, tmp_path)
    (file,) = tmp_path.iterdir()
    (reject,) = read_rejects(file)
    assert (reject.record, reject.reason) == ("broken", "bad_image")
    error = quarantine_of(manifest, tmp_path, 0).over_budget(0.01)
    assert error is not None
    assert error.startswith("1 of 23 records cannot be used (1 bad_image)")


@pytest.mark.parametrize(("rank", "first"), [(0, 1), (1, 0)])
def test_a_stream_of_another_rank_or_step_is_refused(
    rank: int, first: int, config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    shard = rank_dataset(SampleStream.of(config, manifest, 0, 2, 0), config).iterator()
    batches = micro_batches(shard, config, rank, 2, first, quarantine_of(manifest, tmp_path, rank))
    with pytest.raises(RuntimeError, match=r"data stream out of step: .* is \(0, 0, 0\), expected"):
        next(batches)


def test_ray_train_gets_a_stream_for_each_rank_from_the_committed_step(
    whole: list[MicroBatch], config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    data_config = pickle.loads(pickle.dumps(RankedData(config, manifest, committed_step)))
    shards = data_config.configure({"train": RankedData.placeholder()}, 2, None, None)
    quarantines = [quarantine_of(manifest, tmp_path, rank) for rank in range(2)]
    batches = [
        batch
        for rank, shard in enumerate(shards)
        for batch in micro_batches(shard["train"], config, rank, 2, committed_step(), quarantines[rank])
    ]
    assert by_step(batches) == {step: s for step, s in by_step(whole).items() if step >= committed_step()}


def committed_step() -> int:
    return 6


def test_tasks_build_the_same_manifest_as_this_process(
    config: Config, manifest: Manifest, tmp_path: Path
) -> None:
    here = open_manifest(config, tmp_path)
    assert here.summary == manifest.summary
    assert [here.row(n) for n in range(len(here))] == [manifest.row(n) for n in range(len(manifest))]


@pytest.mark.usefixtures("cluster")
def test_a_user_error_in_a_task_is_one_line(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"no zip")
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, records()), "images.zip")
    with pytest.raises(UserError, match="damaged archive") as error:
        open_manifest(build.settings(tmp_path, tokenizer, {"s": source}), mapper=ray_map)
    assert "\n" not in str(error.value)


def test_a_task_reads_as_many_micro_batches_as_fit(config: Config, manifest: Manifest) -> None:
    stream = SampleStream.of(config, manifest, rank=0, workers=1, first_step=0)
    spans = MicroBatchSource(stream, 2.5 * stream.bytes_per_row).spans
    assert [row for span in spans for row in span] == [*stream.rows]
    assert {len(span) for span in spans[:-1]} == {2}
    assert {len(span) for span in MicroBatchSource(stream, 0).spans} == {1}


def test_tasks_share_the_cpus_that_workers_leave_free() -> None:
    assert task_share(4.0, 0) == TaskShare(1, None)
    assert task_share(4.0, 8) == TaskShare(0.5, 8)
    assert task_share(0.5, 0) == TaskShare(0.5, 1)
    assert task_share(0.0, 2) == TaskShare(0, 2)
    assert task_share(-1.0, 0) == TaskShare(0, 1)
