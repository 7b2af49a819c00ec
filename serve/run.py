"""Serve a model and the playground on this machine until interrupted.

    make serve
    python -m serve.run port=8080 engine.max_rows=8

Starts a private Ray, deploys the application on it, and prints example requests. Without ``model=FOLDER``
it serves the tiny model that lladav ships.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import ray  # noqa: E402 - the path comes first
from ray import serve  # noqa: E402

from lladav.checkpoint import shipped_model  # noqa: E402
from lladav.cluster import CHECKOUT, check_gpus, local_head  # noqa: E402
from lladav.config.cli import HELP_FLAGS, key_values, one_line_errors  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from serve.app import build  # noqa: E402
from serve.ingress import check_ingress  # noqa: E402
from serve.settings import Auth, ServeSettings, load  # noqa: E402
from serve.settings_help import settings_help  # noqa: E402
from serve.starting import GPU_SETTING, check_checkpoint, deploy, with_absolute_paths  # noqa: E402

APP, HOST, PORT = "lladav", "127.0.0.1", 8000
IMAGE = ROOT / "serve" / "playground" / "static" / "examples" / "digits.png"
QUESTION = "Which digits are in the picture?"


def main(arguments: Sequence[str]) -> None:
    """Serve until interrupted; a user error is one line on stderr and exit code 2."""
    os.chdir(CHECKOUT or Path.cwd())
    with one_line_errors():
        values = key_values([argument for argument in arguments if argument not in HELP_FLAGS])
        port = values.pop("port", str(PORT))
        if HELP_FLAGS & set(arguments):
            print(f"{__doc__}\n  port={port}\n{settings_help(values)}")
            return
        port = _port(port)
        model = values.get("model") or str(shipped_model())
        settings = with_absolute_paths(load({**values, "model": model}))
        check_checkpoint(settings)
        check_ingress(settings)
        start = time.monotonic()
        engine, ingress = settings.engine, settings.ingress
        cpus = math.ceil(engine.max_replicas * engine.cpus + ingress.replicas * ingress.cpus)
        with local_head(cpus=max(cpus, os.cpu_count() or 1)) as head:
            os.environ.update(head.environment)
            with _connected(head.address):
                check_gpus(max(1, engine.min_replicas) * engine.gpus, GPU_SETTING)
                serve.start(http_options={"host": HOST, "port": port})
                deploy(build(settings), APP, settings.scaling.external)
                print(_examples(settings, port, head.dashboard, time.monotonic() - start), flush=True)
                _wait_for_signal()
                print("stopping after the running requests", flush=True)
                serve.delete(APP)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to Ray that is closed before Ray ends: Ray waits for an open one."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _port(text: str) -> int:
    """A free port; raises ``UserError``. Ray Serve would retry for a while and end with a long message."""
    if not text.isdigit() or not 0 < int(text) < 2**16:
        raise UserError(f"port={text}: not a port; choose 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(text)))
        except OSError:
            raise UserError(f"port={text}: taken; choose another one, as in port={int(text) + 1}") from None
    return int(text)


def _examples(settings: ServeSettings, port: int, dashboard: str, seconds: float) -> str:
    url = f"http://{HOST}:{port}"
    key = "" if settings.auth is Auth.off else '\n  -H "Authorization: Bearer $LLADAV_API_KEY" \\'
    api_key = '"none"' if settings.auth is Auth.off else 'os.environ["LLADAV_API_KEY"]'
    python, image = shlex.quote(os.path.relpath(sys.executable)), os.path.relpath(IMAGE)
    return f"""
{settings.name} is ready after {seconds:.0f} s; Ctrl-C stops it

playground  {url}/
API         {url}/v1   (OpenAI's; {url}/openapi.json)
dashboard   {dashboard}

curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\{key}
  --data-binary @- <<JSON
{{"model": "{settings.name}", "refresh_interval": 4, "messages": [{{"role": "user", "content": [
  {{"type": "image_url", "image_url": {{
    "url": "data:image/png;base64,$(base64 < {shlex.quote(image)} | tr -d '\\n')"}}}},
  {{"type": "text", "text": "{QUESTION}"}}]}}]}}
JSON

{python} - <<'PYTHON'
import base64, os, openai
client = openai.OpenAI(base_url="{url}/v1", api_key={api_key})
image = base64.b64encode(open("{image}", "rb").read()).decode()
answer = client.chat.completions.create(
    model="{settings.name}",
    messages=[{{"role": "user", "content": [
        {{"type": "image_url", "image_url": {{"url": "data:image/png;base64," + image}}}},
        {{"type": "text", "text": "{QUESTION}"}},
    ]}}],
    extra_body={{"refresh_interval": {{"min": 1, "max": 16}}}},
)
print(answer.choices[0].message.content, answer.usage)
PYTHON
"""


def _wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


if __name__ == "__main__":
    main(sys.argv[1:])
