"""Loading and exporting need memory for one tensor besides the model, whatever the size of the checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FREE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Otherwise glibc keeps tens of megabytes of freed tensors, a number that varies between runs."""

MEASURE = """
import json, resource, sys
import torch
from lladav.checkpoint import export, load
from lladav.model.llada_v import LLaDAV
from lladav.config.schema import LanguageConfig, ModelConfig, VisionConfig

language = LanguageConfig(vocab_size=8192, width=1024, mlp_width=4096, layers=2, heads=8, kv_heads=8)
vision = VisionConfig(image_size=28, patch_size=14, width=32, mlp_width=64, layers=2, heads=2)
config = ModelConfig(name="memory", language=language, vision=vision, tokenizer="none")
model = LLaDAV(config)
for parameter in model.parameters():
    torch.nn.init.ones_(parameter)

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

def peak_above(work):
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")
    before = resident()
    work()
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before

export(model, config, sys.argv[1] + "/warm_up", "siglip2")
load(model, sys.argv[1] + "/warm_up")
sizes = [parameter.nbytes for parameter in model.parameters()]
print(json.dumps({
    "model": sum(sizes),
    "largest": max(sizes),
    "export": peak_above(lambda: export(model, config, sys.argv[1] + "/out", max_shard_bytes=10**8)),
    "load": peak_above(lambda: load(model, sys.argv[1] + "/out")),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_the_largest_tensor(tmp_path: Path) -> None:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        env={**os.environ, **FREE_AT_ONCE, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    slack = 8 * 2**20
    assert measured["model"] > 5 * measured["largest"]
    assert measured["load"] < measured["largest"] + slack
    assert measured["export"] < measured["largest"] + slack
