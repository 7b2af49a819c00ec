"""The same records give the same samples in whatever format they lie on disk."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.manifest.manifest import open_manifest
from data.pipeline.reading import read_samples
from lladav.config.schema import SourceConfig, SourceFormat
from lladav.errors import UserError
from lladav.inputs.types import Sample
from tests.data import build

PICTURES = {f"part/{n}.png": build.picture(20 + 15 * n, 30, seed=n) for n in range(5)}
RECORDS = [build.asked(f"r{n}", path) for n, path in enumerate(PICTURES)] + [build.asked("text")]


def samples_of(source: SourceConfig, root: Path, tokenizer: Path) -> list[Sample]:
    """All samples of one source."""
    manifest = open_manifest(build.settings(root, tokenizer, {"source": source}))
    assert not manifest.summary.reasons
    return list(read_samples(manifest, range(len(manifest))))


def json_folder(root: Path) -> SourceConfig:
    return build.json_source(root, RECORDS, PICTURES)


def json_tars(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.json, build.write_json(root, RECORDS), build.write_tars(root, PICTURES))


def jsonl_zip(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.jsonl, build.write_lines(root, RECORDS), build.write_zip(root, PICTURES))


def jsonl_stored_zip(root: Path) -> SourceConfig:
    stored = build.write_zip(root, PICTURES, zipfile.ZIP_STORED)
    return SourceConfig(SourceFormat.jsonl, build.write_lines(root, RECORDS), stored)


def parquet(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.parquet, build.write_parquet(root, RECORDS, PICTURES))


def several_lists(root: Path) -> SourceConfig:
    build.write_json(root, RECORDS[:2], "list_a.json")
    build.write_json(root, RECORDS[2:], "list_b.json")
    return SourceConfig(SourceFormat.json, "list_*.json", build.write_folder(root, PICTURES))


@pytest.mark.parametrize("write", [json_tars, jsonl_zip, jsonl_stored_zip, parquet, several_lists])
def test_every_format_gives_the_same_samples(
    write: Callable[[Path], SourceConfig], tmp_path: Path, tokenizer: Path
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    expected = samples_of(json_folder(tmp_path / "one"), tmp_path / "one", tokenizer)
    found = samples_of(write(tmp_path / "other"), tmp_path / "other", tokenizer)
    assert [len(s.visuals) for s in expected] == [1, 1, 1, 1, 1, 0]
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left.text.input_ids, right.text.input_ids)
        for ours, theirs in zip(left.visuals, right.visuals, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_array_equal(ours.views, theirs.views)


def test_sample_ids_are_unique_and_do_not_change_with_the_place(tmp_path: Path, tokenizer: Path) -> None:
    ids = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        records = [build.asked("same"), build.asked("same")]
        source = build.json_source(tmp_path / name, records, {})
        ids.append([sample.id for sample in samples_of(source, tmp_path / name, tokenizer)])
    assert ids[0] == ids[1] == ["source:records.json#0", "source:records.json#1"]


def test_of_two_members_of_one_name_the_first_counts(tmp_path: Path, tokenizer: Path) -> None:
    for number, side in enumerate((30, 60)):
        with tarfile.open(tmp_path / f"images_{number}.tar", "w") as tar:
            file = tmp_path / "picture"
            file.write_bytes(build.picture(side, side))
            tar.add(file, "a.png")
    records = build.write_json(tmp_path, [build.asked("r", "a.png")])
    source = SourceConfig(SourceFormat.json, records, "images_*.tar")
    assert samples_of(source, tmp_path, tokenizer)[0].visuals[0].shape.width == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.tar.gz", b"x", r"images\.tar\.gz is compressed"),
        ("images.rar", b"x", "no tar or zip"),
        ("images.zip", b"not a zip", r"images\.zip: damaged archive"),
        ("images.tar", b"not a tar" * 100, r"images\.tar: damaged archive"),
    ],
)
def test_unfit_archives_are_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path, tokenizer: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, RECORDS), name)
    with pytest.raises(UserError, match=message) as error:
        samples_of(source, tmp_path, tokenizer)
    assert "\n" not in str(error.value)


def test_of_a_compressed_archive_and_its_unpacked_one_the_unpacked_is_read(
    tmp_path: Path, tokenizer: Path
) -> None:
    build.write_tars(tmp_path, PICTURES)
    for name in ("images_0.tar.gz", "images_1.tgz"):
        (tmp_path / name).write_bytes(b"compressed")
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, RECORDS), "images_*.t*")
    assert len(samples_of(source, tmp_path, tokenizer)) == len(RECORDS)
    (tmp_path / "images_2.tar.gz").write_bytes(b"compressed")
    with pytest.raises(UserError, match=r"images_2\.tar\.gz is compressed"):
        samples_of(source, tmp_path, tokenizer)


@pytest.mark.parametrize("name", ["{folder}/part/0.png", "{link}/part/0.png", "{folder}/x/../part/0.png"])
def test_an_absolute_path_within_the_media_folder_is_found(
    name: str, tmp_path: Path, tokenizer: Path
) -> None:
    folder, link = tmp_path / build.write_folder(tmp_path, PICTURES), tmp_path / "link"
    link.symlink_to(folder)
    records = [build.asked("r", name.format(folder=folder, link=link))]
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, records), "images")
    assert samples_of(source, tmp_path, tokenizer)[0].visuals[0].shape.width == 20


def test_an_absolute_path_outside_the_media_folder_is_missing(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "outside.png").write_bytes(build.picture(9, 9))
    records = [build.asked("r", str(tmp_path / "outside.png")), build.asked("text")]
    source = build.json_source(tmp_path, records, PICTURES)
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    assert manifest.summary.reasons == {"missing_file": 1}


def test_a_source_that_is_not_there_is_named_with_its_key(tmp_path: Path, tokenizer: Path) -> None:
    source = SourceConfig(SourceFormat.json, "nowhere/*.json")
    with pytest.raises(
        UserError, match=r"data\.sources\.source\.annotations=nowhere/\*\.json: nothing there"
    ):
        samples_of(source, tmp_path, tokenizer)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    source = SourceConfig(SourceFormat.parquet, build.write_json(tmp_path, RECORDS))
    with pytest.raises(UserError, match="not a parquet file"):
        samples_of(source, tmp_path, tokenizer)
