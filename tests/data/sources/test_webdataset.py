"""WebDataset shards: samples by their bytes, images read in place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data.manifest.manifest import Manifest, open_manifest
from data.manifest.quarantine import read_rejects
from data.pipeline.reading import read_samples
from data.sources.webdataset import read_shard_samples, shard_samples
from lladav.config.schema import SourceConfig, SourceFormat
from lladav.errors import UserError
from tests.data import build

TURNS = build.turns("<image>What?", "That.")
PNG = build.image_file(30, 20)
FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]


def write(root: Path, files: Mapping[str, Any], form: int = tarfile.USTAR_FORMAT) -> str:
    """A shard with these members; values other than bytes are written as JSON."""
    (root / "files").mkdir(exist_ok=True)
    with tarfile.open(root / "shard.tar", "w", format=form) as tar:
        for number, (name, value) in enumerate(files.items()):
            file = root / "files" / str(number)
            file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
            tar.add(file, name)
    return str(root / "shard.tar")


def manifest_of(root: Path, tokenizer: Path) -> Manifest:
    source = SourceConfig(SourceFormat.webdataset, "*.tar")
    return open_manifest(build.settings(root, tokenizer, {"s": source}))


@pytest.mark.parametrize("form", FORMATS)
def test_a_sample_has_the_files_of_the_same_name(tmp_path: Path, form: int) -> None:
    folder = "a folder with a long name/" * 8 if form != tarfile.USTAR_FORMAT else "folder/"
    names = [
        f"{folder}{name}" for name in ("1.json", "1.left.png", "1.right.jpg", "1.cls", "2.mp4", "2.json")
    ]
    values = [{"id": "one"}, PNG, PNG[::-1], b"7", b"clip", {"id": "two"}]
    path = write(tmp_path, dict(zip(names, values, strict=True)), form)
    (spans,) = [list(run) for run in shard_samples(path)]
    one, two = read_shard_samples(path, *zip(*spans, strict=True))
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert (one["id"], two["id"]) == ("one", "two")
    assert [image.name for image in one["images"]] == names[1:3]
    content = Path(path).read_bytes()
    stored = [content[each.offset : each.offset + each.size] for each in (*one["images"], *two["videos"])]
    assert stored == [PNG, PNG[::-1], b"clip"]


def test_a_record_may_name_its_images(tmp_path: Path) -> None:
    fields = {"image": ["x/0.b.png", "0.a.png", "elsewhere.png"]}
    path = write(tmp_path, {"x/0.a.png": PNG, "x/0.b.png": PNG, "x/0.json": fields})
    ((span,),) = [list(run) for run in shard_samples(path)]
    (record,) = read_shard_samples(path, [span[0]], [span[1]])
    assert isinstance(record, dict)
    assert [getattr(image, "name", image) for image in record["image"]] == [
        "x/0.b.png",
        "x/0.a.png",
        "elsewhere.png",
    ]


def test_unusable_samples_are_quarantined(tmp_path: Path, tokenizer: Path) -> None:
    good = {"id": "good", "conversations": TURNS}
    samples = {
        "0.json": good,
        "0.png": PNG,
        "1.json": b"{",
        "2.png": PNG,
        "3.json": good,
        "3.png": PNG[:20],
        "4.json": [good],
        "5.json": {**good, "image": "none.png"},
        "6.json": good,
        "6.png": PNG,
    }
    write(tmp_path, samples)
    manifest = manifest_of(tmp_path, tokenizer)
    assert [len(sample.visuals) for sample in read_samples(manifest, range(len(manifest)))] == [1, 1]
    assert manifest.summary.reasons == {"bad_json": 1, "bad_record": 2, "bad_image": 1, "missing_file": 1}
    wheres = [reject.where for reject in read_rejects(manifest.quarantine)]
    assert all("shard.tar, the sample at byte " in where for where in wheres)


@pytest.mark.parametrize("content", [b"", b"no archive" * 100])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, tokenizer: Path, content: bytes) -> None:
    (tmp_path / "shard.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"shard\.tar: damaged archive"):
        manifest_of(tmp_path, tokenizer)
