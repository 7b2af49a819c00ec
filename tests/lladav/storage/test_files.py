"""Locations keep their scheme, readers never see partial files, and errors are one line."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from upath import UPath

from lladav import storage
from lladav.errors import UserError
from lladav.storage import absolute, files, local_path, location, locations
from tests.buckets import s3_variables


@pytest.mark.parametrize("uri", ["s3://bucket/runs", "gs://bucket/runs"])
def test_a_uri_keeps_its_scheme(uri: str) -> None:
    path = location(uri + "/") / "a" / "weights"
    assert str(path) == f"{uri}/a/weights"
    assert location(str(path)) == path
    assert absolute(uri) == uri
    assert local_path(path) is None


def test_a_relative_path_starts_at_the_current_folder(tmp_path: Path) -> None:
    assert absolute("runs") == str(Path.cwd() / "runs")
    assert local_path(location("runs")) == Path.cwd() / "runs"
    assert absolute(f"file://{tmp_path}/runs") == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("hdfs://a/b", "hdfs://a/b: hdfs:// is not supported; use s3://, gs:// or a local path"),
        ("s3://key:secret@b/x", "s3://...@b: holds credentials; set them in the environment instead"),
        ("s3://b/x?region=a", "s3://b/x?region=a: a URI takes no options; set AWS_ENDPOINT_URL"),
    ],
)
def test_an_invalid_uri_is_refused(uri: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        location(uri)
    assert str(refused.value).startswith(line)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(locations, "UPath", absent)
    with pytest.raises(UserError, match=r"s3:// needs a package; run: pip install 'lladav\[s3\]'"):
        location("s3://bucket/x")


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on each kind of storage."""
    return str(tmp_path / "there") if request.param == "local" else request.getfixturevalue("bucket")


def test_files_are_written_listed_and_removed(folder: str) -> None:
    path = location(folder)
    assert storage.subfolders(path) == []
    storage.make_folder(path / "a")
    storage.write_durably(path / "a" / "state.json", "one")
    storage.write_durably(path / "a" / "state.json", "two")
    assert (path / "a" / "state.json").read_text() == "two"
    assert storage.subfolders(path) == ["a"]
    assert storage.file_sizes(path) == {"a/state.json": 3}
    buffer = bytearray(5)
    assert storage.read_into(path / "a" / "state.json", 1, memoryview(buffer)) == 2
    assert buffer == b"wo\0\0\0"
    assert storage.file_size(path / "a" / "state.json") == 3
    storage.remove_folder(path / "a")
    assert storage.subfolders(path) == []


def test_a_folder_is_uploaded_and_downloaded(bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "state").mkdir(parents=True)
    (source / "state" / "shard").write_bytes(b"x" * 1000)
    (source / "empty").write_bytes(b"")
    storage.upload(source, location(bucket))
    storage.download(location(bucket), tmp_path / "copy", lambda name: name.startswith("state/"))
    assert (tmp_path / "copy" / "state" / "shard").read_bytes() == b"x" * 1000
    assert not (tmp_path / "copy" / "empty").exists()


def test_included_files_and_all_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c" / "weights").mkdir(parents=True)
    for name in ("state", "weights/config.json", "weights/model.safetensors"):
        (tmp_path / "c" / name).write_text("x")
    synced: list[int] = []
    monkeypatch.setattr(files, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    storage.fsync_files(tmp_path / "c", lambda name: not name.endswith(".safetensors"))
    expected = [
        tmp_path,
        *(tmp_path / "c" / name for name in ("", "state", "weights", "weights/config.json")),
    ]
    assert sorted(synced) == sorted(path.stat().st_ino for path in expected)


def test_an_upload_that_lost_a_file_is_an_error(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "shard").write_bytes(b"x" * 1000)
    path = location(bucket)
    monkeypatch.setattr(path.fs, "put", lambda *_: path.fs.pipe_file((path / "shard").path, b"x" * 10))
    with pytest.raises(OSError, match="shard has 10 bytes after its upload, expected 1000 bytes"):
        storage.upload(tmp_path / "source", path)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_not_created() -> None:
    path = location("s3://no-such-bucket/runs")
    storage.make_folder(path)
    with (
        pytest.raises(
            UserError, match=r"^s3://no-such-bucket/runs: no \(no such file, folder or bucket\); fix"
        ),
        storage.as_user_error(f"{path}: no", "fix"),
    ):
        storage.write_durably(path / "x", "x")


class Denying(BaseHTTPRequestHandler):
    """An object store that denies all requests."""

    def do_GET(self) -> None:
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.usefixtures("bucket")
def test_denied_access_is_one_line_without_credentials() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Denying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with s3_variables(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}"):
            path = UPath("s3://denied/x", use_listings_cache=False, skip_instance_cache=True)
            for action in (storage.exists, storage.subfolders, storage.read_text, storage.file_infos):
                with pytest.raises(UserError) as refused, storage.as_user_error(f"{path}: no", "fix"):
                    action(path)
                assert str(refused.value) == "s3://denied/x: no (access denied); fix"
        server.shutdown()


def test_missing_credentials_are_one_line(bucket: str) -> None:
    path = UPath(f"{bucket}/x", use_listings_cache=False, skip_instance_cache=True)
    with (
        s3_variables(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None),
        pytest.raises(UserError, match=r"no \(Unable to locate credentials\); fix$"),
        storage.as_user_error(f"{path}: no", "fix"),
    ):
        storage.exists(path)
