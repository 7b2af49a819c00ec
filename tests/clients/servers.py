"""A server for the checks: ``serve.run`` with random weights."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from lladav.errors import UserError
from tests.serve.apis import checkpoint

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "golden" / "tokenizer"
START_SECONDS, STOP_SECONDS = 600, 60


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """The address of a server that runs until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        model, port = checkpoint(Path(folder) / "model", TOKENIZER), _free_port()
        command = [
            sys.executable,
            "-m",
            "serve.run",
            f"model={model}",
            f"port={port}",
            "limits.max_tokens=1024",
        ]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sys.stderr)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, address)
            yield address
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urlopen(f"{address}/ready", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise UserError("the server does not start; see the lines above")
