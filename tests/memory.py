"""Peak memory of a piece of work, measured in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESET = Path("/proc/self/clear_refs")
FREE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Otherwise glibc keeps tens of megabytes of freed tensors, a number that varies between runs."""

needs_peak_memory = pytest.mark.skipif(not os.access(RESET, os.W_OK), reason="needs Linux's /proc")


def peak_above(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process rises while it does some work."""
    RESET.write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    work()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - pages * resource.getpagesize()


def run_program(program: str, *arguments: str) -> Any:
    """Run a program in a new process; returns its last line of output, parsed as JSON."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **FREE_AT_ONCE, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
