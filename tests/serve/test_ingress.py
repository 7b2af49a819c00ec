"""What needs no torch starts without it: its import takes as long as all others together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INGRESS = """
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

READING = """
import sys
import serve.offline.reading
print({"torch"} & {*sys.modules})
"""


@pytest.mark.parametrize("program", [INGRESS, READING])
def test_a_service_and_a_reading_task_need_no_torch(root: Path, program: str):
    environment = {"PYTHONPATH": f"{root}:{root / 'platform'}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
