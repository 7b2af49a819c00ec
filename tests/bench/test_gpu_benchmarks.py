"""The GPU benchmarks' logic, on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def bench(root: Path, name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(root / "tests" / "bench" / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def results_of(lines: list[str]) -> list[dict]:
    """The results, which are the last lines and say what they were measured against."""
    results = [json.loads(line) for line in lines if line.startswith("{")]
    assert lines[-1] == json.dumps(results[-1])
    assert all({"name", "unit", "against"} < result.keys() and result["value"] > 0 for result in results)
    return results


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["bench_gpu_mfu.py", "bench_gpu_decoding.py"])
def test_without_a_gpu_one_line_says_so(root: Path, name: str) -> None:
    (line,) = bench(root, name)
    assert line.startswith("skipped")


def test_utilisation_has_a_result_for_each_batch(root: Path) -> None:
    sizes = "--device cpu --layers 1 --width 64 --tokens 16 64 --steps 1"
    results = results_of(bench(root, "bench_gpu_mfu.py", *sizes.split()))
    assert [result["tokens"] for result in results] == ["1 x 16", "1 x 64", "4 x 16"]


def test_decoding_has_a_result_for_each_interval_and_way(root: Path) -> None:
    sizes = "--device cpu --layers 1 --width 64 --vocabulary 99 --prompt 20 --answer 8 --intervals 2 4"
    results = results_of(bench(root, "bench_gpu_decoding.py", *sizes.split()))
    assert [result["unit"] for result in results] == ["tokens/s", "tokens/s", "of the roofline", "tokens/s"]
    assert all(value > 0 for result in results[:2] for value in result["over_floor"].values())
