"""The manifest has a row for each usable sample, a reason for each other record, and is built once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.manifest import folder as manifest_folder
from data.manifest import manifest as manifests
from data.manifest.manifest import Manifest, open_manifest
from data.manifest.quarantine import read_rejects
from data.manifest.scan import SPEC_FILE
from data.pipeline.reading import read_samples
from data.records.record import BadSample
from lladav.config.schema import Config, MissingMark, SourceConfig, SourceFormat, Suffix
from lladav.errors import UserError
from lladav.inputs.chat import TEXT_VERSION
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import expand_placeholders
from lladav.inputs.samples import IGNORED
from tests.data import build

BAD: dict[str, Any] = {
    "not an object": (17, "bad_record"),
    "no conversation": ({"id": "b"}, "bad_record"),
    "a turn without text": ({"id": "b", "conversations": [{"from": "human"}]}, "bad_record"),
    "no answer": ({"id": "b", "conversations": build.turns("What?")}, "bad_record"),
    "image and video": (build.record("b", "a.png") | {"video": "c.gif"}, "bad_record"),
    "image that is a number": (build.record("b") | {"image": 3}, "bad_record"),
    "unknown role": ({"id": "b", "conversations": [{"from": "robot", "value": "Hi"}]}, "unknown_role"),
    "mark without image": ({"id": "b", "conversations": build.turns("<image>?", "Yes.")}, "image_count"),
    "image without mark": (build.record("b") | {"image": "a.png"}, "image_count"),
    "missing file": (build.record("b", "nowhere.png"), "missing_file"),
    "path out of the media folder": (build.record("b", "../records.json"), "missing_file"),
    "empty file": (build.record("b", "empty.png"), "empty_file"),
    "no image": (build.record("b", "text.png"), "bad_image"),
    "answer beyond the longest length": (
        build.record("b") | {"conversations": build.turns("What? " * 900, "No.")},
        "answer_cut",
    ),
}


def settings(root: Path, tokenizer: Path, records: list, **stage: Any) -> Config:
    """A stage over a JSON list and a folder of images, some of them damaged."""
    media = build.IMAGES | {"empty.png": b"", "text.png": b"no image"}
    return build.settings(root, tokenizer, {"s": build.json_source(root, records, media)}, **stage)


@pytest.fixture
def good(tmp_path: Path, tokenizer: Path) -> Manifest:
    return open_manifest(settings(tmp_path, tokenizer, build.RECORDS))


def test_rows_describe_the_samples(good: Manifest) -> None:
    geometry = good.spec.geometry
    for number, sample in enumerate(read_samples(good, range(len(good)))):
        row, expanded = good.row(number), expand_placeholders(sample, geometry)
        assert row["id"] == sample.id
        assert row["length"] == good.lengths[number] == len(expanded.ids)
        assert row["visual_tokens"] == expanded.visual.sum()
        assert row["text_tokens"] == len(expanded.ids) - expanded.visual.sum()
        assert row["supervised"] == np.count_nonzero(expanded.labels != IGNORED)
        assert list(zip(row["kind"], row["width"], row["views"], strict=True)) == [
            (visual.shape.kind, visual.shape.width, visual.shape.views) for visual in sample.visuals
        ]
    assert good.summary.views == sum(sum(good.row(n)["views"]) for n in range(len(good)))


def test_rows_are_found_across_chunks(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.sources.annotations.RECORDS_PER_CHUNK", 3)
    records = [build.record(f"r{n}") for n in range(7)] + [17] + [build.record(f"r{n}") for n in range(8, 12)]
    manifest = open_manifest(settings(tmp_path, tokenizer, records))
    found = [manifest.row(number)["id"] for number in range(len(manifest))]
    assert found == [f"s:records.json#{n}" for n in range(12) if n != 7]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_counted_by_its_reason_and_costs_no_other(
    case: str, tmp_path: Path, tokenizer: Path
) -> None:
    record, reason = BAD[case]
    manifest = open_manifest(settings(tmp_path, tokenizer, [build.RECORDS[0], record, build.RECORDS[1]]))
    assert manifest.summary.reasons == {reason: 1}
    assert (manifest.summary.records, len(manifest)) == (3, 2)
    (reject,) = read_rejects(manifest.quarantine)
    assert (reject.source, reject.reason) == ("s", reason)
    assert reject.sample == "s:records.json#1"
    assert reject.record == ("b" if isinstance(record, dict) else "")
    assert "records.json, byte " in reject.where
    assert reject.detail


def test_records_that_are_not_json_are_quarantined(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"id": "x", \n' + '{"conversations": oops}\n')
    build.write_lines(tmp_path, build.RECORDS[:1], "more.jsonl")
    source = SourceConfig(SourceFormat.jsonl, "*.jsonl")
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))
    assert manifest.summary.reasons == {"bad_json": 2}
    assert manifest.summary.samples == 1


def test_an_image_whose_pixels_are_damaged_is_found_when_it_is_read(tmp_path: Path, tokenizer: Path) -> None:
    jpeg = build.image_file(90, 60, suffix="JPEG")
    source = build.json_source(tmp_path, [build.record("r", "a.jpg")], {"a.jpg": jpeg[: len(jpeg) // 2]})
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"s": source}))
    assert len(manifest) == 1
    with pytest.raises(BadSample, match=r"bad_image: a\.jpg"):
        next(read_samples(manifest, [0]))


def test_an_image_that_has_changed_since_is_not_used(tmp_path: Path, tokenizer: Path) -> None:
    manifest = open_manifest(settings(tmp_path, tokenizer, [build.record("r", "a.png")]))
    (tmp_path / "images" / "a.png").write_bytes(build.image_file(31, 30))
    with pytest.raises(BadSample, match="has changed since the manifest was built"):
        next(read_samples(manifest, [0]))


def test_more_bad_records_than_the_budget_are_an_error_of_one_line(tmp_path: Path, tokenizer: Path) -> None:
    config = settings(
        tmp_path, tokenizer, [*build.RECORDS, 17, 18, build.record("b", "nowhere.png"), build.RECORDS[0]]
    )
    config.data.bad_sample_budget = 0.3
    with pytest.raises(UserError) as error:
        open_manifest(config)
    assert str(error.value).startswith("3 of 8 records cannot be used (2 bad_record, 1 missing_file); see ")
    assert "quarantine.jsonl" in str(error.value)
    assert "data.bad_sample_budget" in str(error.value)
    assert "\n" not in str(error.value)
    config.data.bad_sample_budget = 3 / 8
    assert len(open_manifest(config)) == 5


def test_no_usable_record_is_an_error(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match="no usable record in s"):
        open_manifest(settings(tmp_path, tokenizer, [17]))


def test_a_sample_that_is_cut_is_kept_and_counted(tmp_path: Path, tokenizer: Path) -> None:
    long = build.record("long", "a.png", answer="word " * 200)
    manifest = open_manifest(settings(tmp_path, tokenizer, [long, build.RECORDS[0]], max_length=250))
    assert manifest.summary.cut == 1
    assert manifest.row(0)["was_cut"]
    assert manifest.lengths[0] == 250
    (sample,) = read_samples(manifest, [0])
    assert len(expand_placeholders(sample, manifest.spec.geometry).ids) == 250


def test_images_after_the_cut_are_dropped(tmp_path: Path, tokenizer: Path) -> None:
    turns = build.turns("<image>\nOne?", "word " * 300, "<image>\nTwo?", "No.")
    record = {"id": "r", "image": ["a.png", "wide.png"], "conversations": turns}
    manifest = open_manifest(settings(tmp_path, tokenizer, [record], max_length=300))
    (sample,) = read_samples(manifest, [0])
    assert [visual.shape.width for visual in sample.visuals] == [30]
    assert len(expand_placeholders(sample, manifest.spec.geometry).ids) == manifest.lengths[0]


def fail(*_: Any) -> None:
    raise AssertionError("scanned again")


def test_a_manifest_is_built_once(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, tokenizer, build.RECORDS)
    first = open_manifest(config)
    monkeypatch.setattr(manifests, "scan_chunk", fail)
    config.train.micro_batch, config.stage.global_batch, config.data.bad_sample_budget = 4, 8, 0.5
    assert open_manifest(config).folder == first.folder


def add_suffix(config: Config) -> None:
    config.stage.suffixes = {"s": Suffix(" /think", 0.5)}


def touch_records(config: Config) -> None:
    os.utime(Path(config.data.root) / "records.json", ns=(1, 1))


def test_a_manifest_of_another_text_version_is_built_again_with_one_log_line(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, tokenizer, build.RECORDS)
    with monkeypatch.context() as patch:
        patch.setattr("data.manifest.spec.TEXT_VERSION", 1)
        old = open_manifest(config)
    content = json.loads((old.folder / SPEC_FILE).read_text())
    del content["text_version"], content["preparation"]["missing_mark"]  # the first version had neither
    (old.folder / SPEC_FILE).write_text(json.dumps(content))
    assert not caplog.records
    assert open_manifest(config).folder != old.folder
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{old.folder}: built with text processing version 1; version {TEXT_VERSION} "
    )
    assert "\n" not in record.getMessage()
    open_manifest(config)
    config.stage.max_length = 900
    open_manifest(config)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.stage, "max_length", 900),
        lambda config: setattr(config.objective, "eos_tail", 1),
        lambda config: setattr(config.data, "missing_mark", MissingMark.prepend),
        lambda config: setattr(config.model.vision, "patch_size", 7),
        add_suffix,
        touch_records,
    ],
)
def test_any_setting_that_changes_samples_gives_another_manifest(
    change: Callable[[Config], None], tmp_path: Path, tokenizer: Path
) -> None:
    config = settings(tmp_path, tokenizer, build.RECORDS)
    first = open_manifest(config)
    change(config)
    assert open_manifest(config).folder != first.folder


def test_a_scan_that_fails_leaves_no_files(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, tokenizer, build.RECORDS)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "scan_chunk", fail)
        with pytest.raises(AssertionError, match="scanned again"):
            open_manifest(config)
    assert list((tmp_path / manifest_folder.FOLDER).iterdir()) == []
    assert len(open_manifest(config)) == len(build.RECORDS)


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the manifest cannot be written there"):
        open_manifest(settings(tmp_path, tokenizer, build.RECORDS), tmp_path / "file")


def test_a_full_disk_is_an_error_of_one_line(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifests, "_write", full)
    with pytest.raises(UserError, match="no space left for the manifest"):
        open_manifest(settings(tmp_path, tokenizer, build.RECORDS))
    assert list((tmp_path / manifest_folder.FOLDER).iterdir()) == []


def test_suffixes_are_recorded_and_used(tmp_path: Path, tokenizer: Path) -> None:
    records = [build.record(f"r{n}") for n in range(40)]
    config = settings(tmp_path, tokenizer, records, suffixes={"s": Suffix(" /think", 0.5)})
    manifest = open_manifest(config)
    lengths = {manifest.row(n)["suffix"]: int(manifest.lengths[n]) for n in range(len(manifest))}
    assert lengths[True] > lengths[False]
    for number, sample in enumerate(read_samples(manifest, range(len(manifest)))):
        assert len(sample.text.input_ids) == manifest.lengths[number]


def test_the_geometry_is_that_of_the_model(good: Manifest) -> None:
    config = settings(Path(good.spec.root), Path(good.spec.tokenizer), build.RECORDS)
    assert good.spec.geometry == ViewGeometry.of(config.model)
