"""An S3 server (moto) on the loopback interface, in a separate process, with a log of its requests."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BUCKET = "bucket"
PATIENCE_SECONDS = 60

_RUNNING = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
_REQUEST = re.compile(r'"(?:\x1b\[[\d;]*m)*([A-Z]+) (\S+) HTTP/1\.1(?:\x1b\[[\d;]*m)*" (\d+)')


@dataclass(frozen=True)
class Request:
    """A request and the status of its response."""

    method: str
    path: str
    status: int


@dataclass(frozen=True)
class S3Server:
    """A running server; ``environment`` holds the variables that direct S3 clients to it."""

    log: Path
    environment: dict[str, str]

    @property
    def requests(self) -> list[Request]:
        """All requests so far."""
        found = _REQUEST.findall(self.log.read_text(errors="replace"))
        return [Request(method, path, int(status)) for method, path, status in found]

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Direct the S3 clients of this process to this server; only they read these variables."""
        with s3_variables(**self.environment):
            yield


@contextmanager
def s3_variables(**variables: str | None) -> Iterator[None]:
    """Set environment variables that only S3 clients read, or remove them (``None``)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server with one empty bucket; its log is written to ``folder``."""
    log = folder / "s3.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        server = S3Server(log, _environment(_port(process, log)))
        _create_bucket(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := _RUNNING.search(log.read_text(errors="replace"))):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, "the S3 server did not start"
        time.sleep(0.05)
    return int(found[1])


def _environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def _create_bucket(server: S3Server) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test-key",
        aws_secret_access_key="test-secret",
    )
    client.create_bucket(Bucket=BUCKET)
