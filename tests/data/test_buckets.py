"""Data in a bucket give the same manifest and samples as the same files in a folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data.digits.preparation import prepare
from data.manifest.manifest import Manifest, open_manifest
from data.pipeline.reading import read_samples
from data.records.record import BadSample
from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.errors import StorageError, UserError
from lladav.storage import location, upload
from tests.buckets import BUCKET, S3Server

STAGES = {
    "pretrain": "a JSON list and a folder of images",
    "si": "tar",
    "vw": "lines and zip",
    "llava_next": "parquet",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set."""
    folder = tmp_path_factory.mktemp("digits") / "digits"
    prepare(folder, scale=0.02)
    return folder


@pytest.fixture(scope="module")
def data(digits: Path, s3_server: S3Server) -> str:
    """URI of the same data."""
    with s3_server.reached():
        upload(digits, location(f"s3://{BUCKET}/data"))
    return f"s3://{BUCKET}/data"


def settings(root: Path | str, storage: Path | str, stage: str) -> Config:
    overrides = (f"data.root={root}", f"model.tokenizer={root}/tokenizer", f"train.storage={storage}")
    return load([f"stage={stage}", "model=tiny", "data=digits", *overrides])


def rows(manifest: Manifest) -> list[dict]:
    return [manifest.row(index) for index in range(len(manifest))]


@pytest.mark.parametrize("stage", STAGES, ids=STAGES.values())
def test_a_bucket_gives_the_same_samples_as_a_folder(
    stage: str, digits: Path, data: str, tmp_path: Path, bucket: str
) -> None:
    here = open_manifest(settings(digits, tmp_path, stage))
    there = open_manifest(settings(data, f"{bucket}/runs", stage))
    assert str(there.folder).startswith(f"{bucket}/runs/.manifests/")
    assert rows(there) == rows(here)
    assert there.summary == here.summary
    first = range(min(4, len(here)))
    for one, other in zip(read_samples(here, first), read_samples(there, first), strict=True):
        assert one.id == other.id
        assert np.array_equal(one.text.input_ids, other.text.input_ids)
        assert all(np.array_equal(a.views, b.views) for a, b in zip(one.visuals, other.visuals, strict=True))


def test_a_manifest_in_a_bucket_is_built_once(
    data: str, tmp_path: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = open_manifest(settings(data, f"{bucket}/runs", "si"))
    monkeypatch.setenv("LLADAV_CACHE", str(tmp_path / "cache of another machine"))
    before = len(s3_server.requests)
    again = open_manifest(settings(data, f"{bucket}/runs", "si"))
    assert again.folder == built.folder
    assert not any(request.method == "PUT" for request in s3_server.requests[before:])


@pytest.mark.parametrize(
    ("answer", "raised"), [(TimeoutError("no answer"), StorageError), (FileNotFoundError(), BadSample)]
)
def test_a_missing_object_is_a_bad_sample_and_an_unreachable_store_is_not(
    answer: OSError, raised: type[Exception], data: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_manifest(settings(data, f"{bucket}/runs", "pretrain"))

    def refuse(*_: object, **__: object) -> None:
        raise answer

    monkeypatch.setattr(location(bucket).fs, "cat_file", refuse)
    with pytest.raises(raised):
        next(read_samples(manifest, [0]))


def test_missing_data_is_an_error_of_one_line(bucket: str, digits: Path) -> None:
    config = settings(f"{bucket}/none", f"{bucket}/runs", "si")
    config.model.tokenizer = str(digits / "tokenizer")
    with pytest.raises(UserError, match=rf"no such file under {re.escape(bucket)}/none; prepare the data"):
        open_manifest(config)
