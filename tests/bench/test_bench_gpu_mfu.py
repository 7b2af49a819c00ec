"""The MFU benchmark's logic, on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def bench(root: Path, *arguments: str) -> list[str]:
    command = [sys.executable, str(root / "tests" / "bench" / "bench_gpu_mfu.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(root: Path) -> None:
    (line,) = bench(root)
    assert line.startswith("skipped")


def test_ends_with_a_result_for_each_batch(root: Path) -> None:
    lines = bench(root, *"--device cpu --layers 1 --width 64 --tokens 16 64 --steps 1".split())
    results = [json.loads(line) for line in lines if line.startswith("{")]
    assert lines[-1] == json.dumps(results[-1])
    assert [result["tokens"] for result in results] == ["1 x 16", "1 x 64", "4 x 16"]
    assert all({"name", "unit", "against"} < result.keys() and result["value"] > 0 for result in results)
