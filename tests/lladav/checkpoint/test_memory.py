"""Loading and exporting need memory for one tensor besides the model, whatever the size of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.memory import needs_peak_memory, run_program

MEASURE = """
import json, sys
import torch
from lladav.checkpoint import export, load
from lladav.model.llada_v import LLaDAV
from lladav.config.schema import LanguageConfig, ModelConfig, VisionConfig
from tests.memory import peak_above

language = LanguageConfig(vocab_size=8192, width=1024, mlp_width=4096, layers=2, heads=8, kv_heads=8)
vision = VisionConfig(image_size=28, patch_size=14, width=32, mlp_width=64, layers=2, heads=2)
config = ModelConfig(name="memory", language=language, vision=vision, tokenizer="none")
model = LLaDAV(config)
for parameter in model.parameters():
    torch.nn.init.ones_(parameter)

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
@needs_peak_memory
def test_peak_memory_is_that_of_the_largest_tensor(tmp_path: Path) -> None:
    measured = run_program(MEASURE, str(tmp_path))
    slack = 8 * 2**20
    assert measured["model"] > 5 * measured["largest"]
    assert measured["load"] < measured["largest"] + slack
    assert measured["export"] < measured["largest"] + slack
