"""An ingress replica starts without torch, whose import takes as long as all others together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys
from lladav.checkpoint import shipped_model
from serve.ingress import service_of
from serve.settings import load

async def ready() -> bool:
    return True

settings = load({"config": "local", "model": str(shipped_model())})
service_of(settings, object(), ready)
print({"torch"} & {*sys.modules})
"""


def test_a_service_needs_no_torch(root: Path):
    environment = {"PYTHONPATH": f"{root}:{root / 'platform'}"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
