"""Local copies of objects: downloaded once, again when they change, and never visible in part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lladav.errors import UserError
from lladav.storage import local_cache, location, write_durably
from lladav.storage.local_cache import local_copy
from tests.buckets import S3Server


def downloads(server: S3Server, bucket: str, name: str) -> int:
    path = f"{bucket.removeprefix('s3:/')}/{name}"
    return sum(request.method == "GET" and request.path == path for request in server.requests)


def test_a_local_path_is_returned_unchanged(tmp_path: Path) -> None:
    assert local_copy(tmp_path / "weights") == tmp_path / "weights"


def test_several_processes_download_a_folder_once(bucket: str, s3_server: S3Server) -> None:
    write_durably(location(bucket) / "w" / "model.safetensors", "values")
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(local_copy, [f"{bucket}/w"] * 4))
    assert len(set(copies)) == 1
    assert (copies[0] / "model.safetensors").read_text() == "values"
    assert downloads(s3_server, bucket, "w/model.safetensors") == 1


def test_a_changed_object_gets_a_new_copy(bucket: str) -> None:
    file = location(bucket) / "w" / "config.json"
    write_durably(file, "old")
    old = local_copy(f"{bucket}/w")
    write_durably(file, "new")
    assert (local_copy(f"{bucket}/w") / "config.json").read_text() == "new"
    assert (old / "config.json").read_text() == "old"


def test_a_single_file_is_copied_under_its_name(bucket: str) -> None:
    write_durably(location(bucket) / "w" / "model.safetensors", "values")
    copy = local_copy(f"{bucket}/w/model.safetensors")
    assert (copy.name, copy.read_text()) == ("model.safetensors", "values")


def test_a_missing_object_is_one_line(bucket: str) -> None:
    with pytest.raises(
        UserError, match=rf"^{bucket}/none: cannot be read \(no such file, folder or bucket\); check the URI"
    ):
        local_copy(f"{bucket}/none")


def test_a_copy_that_does_not_fit_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(location(bucket) / "w" / "x", "values")
    monkeypatch.setattr(local_cache, "disk_usage", lambda _: type("Usage", (), {"free": 5})())
    with pytest.raises(UserError, match=r"needs 0 MiB, .* has 0 MiB free; set LLADAV_CACHE"):
        local_copy(f"{bucket}/w")
