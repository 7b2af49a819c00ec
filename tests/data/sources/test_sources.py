"""The same records give the same samples in every format on disk."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.manifest.manifest import open_manifest
from data.manifest.quarantine import read_rejects
from data.pipeline.reading import read_samples
from data.sources.annotations import FORMATS, RecordFormat
from lladav.config.schema import SourceConfig, SourceFormat
from lladav.errors import UserError
from lladav.inputs.samples import Sample
from tests.data import build

IMAGES = {f"part/{n}.png": build.image_file(20 + 15 * n, 30, seed=n) for n in range(5)}
RECORDS = [build.record(f"r{n}", path) for n, path in enumerate(IMAGES)] + [build.record("text")]


def samples_of(source: SourceConfig, root: Path, tokenizer: Path) -> list[Sample]:
    """All samples of one source."""
    manifest = open_manifest(build.settings(root, tokenizer, {"source": source}))
    assert not manifest.summary.reasons
    return list(read_samples(manifest, range(len(manifest))))


def json_folder(root: Path) -> SourceConfig:
    return build.json_source(root, RECORDS, IMAGES)


def json_tars(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.json, build.write_json(root, RECORDS), build.write_tars(root, IMAGES))


def jsonl_zip(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.jsonl, build.write_lines(root, RECORDS), build.write_zip(root, IMAGES))


def jsonl_stored_zip(root: Path) -> SourceConfig:
    stored = build.write_zip(root, IMAGES, zipfile.ZIP_STORED)
    return SourceConfig(SourceFormat.jsonl, build.write_lines(root, RECORDS), stored)


def parquet(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.parquet, build.write_parquet(root, RECORDS, IMAGES))


def arrow(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.arrow, build.write_arrow(root, RECORDS, IMAGES))


def webdataset(root: Path) -> SourceConfig:
    return SourceConfig(SourceFormat.webdataset, build.write_shards(root, RECORDS, IMAGES))


def several_lists(root: Path) -> SourceConfig:
    build.write_json(root, RECORDS[:2], "list_a.json")
    build.write_json(root, RECORDS[2:], "list_b.json")
    return SourceConfig(SourceFormat.json, "list_*.json", build.write_folder(root, IMAGES))


WRITERS = [json_tars, jsonl_zip, jsonl_stored_zip, parquet, arrow, webdataset, several_lists]


@pytest.mark.parametrize("write", WRITERS)
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


def test_sample_ids_are_unique_and_independent_of_the_folder(tmp_path: Path, tokenizer: Path) -> None:
    ids = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        records = [build.record("same"), build.record("same")]
        source = build.json_source(tmp_path / name, records, {})
        ids.append([sample.id for sample in samples_of(source, tmp_path / name, tokenizer)])
    assert ids[0] == ids[1] == ["source:records.json#0", "source:records.json#1"]


def test_the_first_of_two_members_with_the_same_name_is_used(tmp_path: Path, tokenizer: Path) -> None:
    for number, side in enumerate((30, 60)):
        with tarfile.open(tmp_path / f"images_{number}.tar", "w") as tar:
            file = tmp_path / "image"
            file.write_bytes(build.image_file(side, side))
            tar.add(file, "a.png")
    records = build.write_json(tmp_path, [build.record("r", "a.png")])
    source = SourceConfig(SourceFormat.json, records, "images_*.tar")
    assert samples_of(source, tmp_path, tokenizer)[0].visuals[0].shape.width == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.tar.gz", b"x", r"images\.tar\.gz is compressed"),
        ("images.rar", b"x", "not a tar or zip"),
        ("images.zip", b"not a zip", r"images\.zip: damaged archive"),
        ("images.tar", b"not a tar" * 100, r"images\.tar: damaged archive"),
    ],
)
def test_unusable_archives_are_an_error_of_one_line(
    name: str, content: bytes, message: str, tmp_path: Path, tokenizer: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, RECORDS), name)
    with pytest.raises(UserError, match=message) as error:
        samples_of(source, tmp_path, tokenizer)
    assert "\n" not in str(error.value)


def test_a_decompressed_archive_is_read_instead_of_its_compressed_copy(
    tmp_path: Path, tokenizer: Path
) -> None:
    build.write_tars(tmp_path, IMAGES)
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
    folder, link = tmp_path / build.write_folder(tmp_path, IMAGES), tmp_path / "link"
    link.symlink_to(folder)
    records = [build.record("r", name.format(folder=folder, link=link))]
    source = SourceConfig(SourceFormat.json, build.write_json(tmp_path, records), "images")
    assert samples_of(source, tmp_path, tokenizer)[0].visuals[0].shape.width == 20


def test_an_absolute_path_outside_the_media_folder_is_missing(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "outside.png").write_bytes(build.image_file(9, 9))
    records = [build.record("r", str(tmp_path / "outside.png")), build.record("text")]
    source = build.json_source(tmp_path, records, IMAGES)
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    assert manifest.summary.reasons == {"missing_file": 1}


def test_a_missing_source_is_named_with_its_key(tmp_path: Path, tokenizer: Path) -> None:
    source = SourceConfig(SourceFormat.json, "nowhere/*.json")
    with pytest.raises(UserError, match=r"data\.sources\.source\.annotations=nowhere/\*\.json: no such file"):
        samples_of(source, tmp_path, tokenizer)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    source = SourceConfig(SourceFormat.parquet, build.write_json(tmp_path, RECORDS))
    with pytest.raises(UserError, match="not a parquet file"):
        samples_of(source, tmp_path, tokenizer)


def _tsv_lines(path: str) -> Iterator[list[tuple[int, int]]]:
    """Positions of the lines of a file with one record per line: id, image, question, answer."""
    ends = [0, *(match.end() for match in re.finditer(b"\n", Path(path).read_bytes()))]
    yield [(start, end - start) for start, end in pairwise(ends)]


def _read_tsv(path: str, positions: Sequence[int], extents: Sequence[int]) -> Iterator[dict[str, Any]]:
    content = Path(path).read_bytes()
    for position, extent in zip(positions, extents, strict=True):
        name, image, *texts = content[position : position + extent].decode().rstrip("\n").split("\t")
        yield {"id": name, "image": image, "conversations": build.turns(*texts)}


def test_a_new_format_is_one_entry_in_the_table(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        FORMATS,
        SourceFormat.jsonl,
        RecordFormat(_tsv_lines, _read_tsv, lambda *_: 1.0, "line at {position}"),
    )
    lines = ["r0\tpart/0.png\t<image>What?\tSeven.", "r1\t\tHow?\tSo.", "r2\tpart/9.png\t<image>?\tYes."]
    (tmp_path / "records.tsv").write_text("".join(f"{line}\n" for line in lines))
    source = SourceConfig(SourceFormat.jsonl, "records.tsv", build.write_folder(tmp_path, IMAGES))
    manifest = open_manifest(build.settings(tmp_path, tokenizer, {"source": source}))
    first, second = read_samples(manifest, range(len(manifest)))
    assert (len(first.visuals), len(second.visuals)) == (1, 0)
    (reject,) = read_rejects(manifest.quarantine)
    assert (reject.record, reject.reason) == ("r2", "missing_file")
    assert reject.where.endswith(f"records.tsv, line at {len(lines[0]) + len(lines[1]) + 2}")


def test_every_format_of_the_settings_has_a_reader() -> None:
    assert set(FORMATS) == set(SourceFormat)


def test_a_format_without_a_reader_is_an_error_of_one_line(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build.json_source(tmp_path, RECORDS, IMAGES)
    monkeypatch.delitem(FORMATS, SourceFormat.json)
    line = r"^source format json: has no reader .*; use jsonl, parquet, arrow, webdataset$"
    with pytest.raises(UserError, match=line):
        samples_of(source, tmp_path, tokenizer)
