"""The engine on a GPU, with every kind of option."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from lladav.config.schema import Attention
from lladav.decoding.cuda_graphs import capture_sizes
from lladav.decoding.engine import GRAPH_BYTES, Engine, EngineConfig, decode
from lladav.decoding.kv_cache import BLOCK_SIZE, kv_block_bytes
from lladav.decoding.params import DecodingOptions
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import variant
from tests.lladav.decoding.test_engine import (
    EACH_CASE,
    MODEL,
    NEXT_TOKEN_MODEL,
    NEXT_TOKEN_OPTIONS,
    OPTIONS,
    run,
    some_prompts,
)

pytestmark = pytest.mark.gpu


MASKED = [(variant(MODEL, attention=attention), options) for attention in Attention for options in OPTIONS]
NEXT_TOKEN = [(NEXT_TOKEN_MODEL, options) for options in NEXT_TOKEN_OPTIONS]


@pytest.mark.parametrize(("model", "options"), MASKED + NEXT_TOKEN)
def test_answers(model: LLaDAV, options: DecodingOptions) -> None:
    """Answers equal those of a CPU in float32; sampled ones repeat, but a GPU has another generator."""
    on_cpu = decode(model, some_prompts(), options)
    model = deepcopy(model).cuda()
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_gpu, again = (decode(model, some_prompts(), options) for _ in range(2))
    assert on_gpu == again
    if options.temperature == 0:
        assert [answer.tokens for answer in on_gpu] == [answer.tokens for answer in on_cpu]
        for one_gpu, one_cpu in zip(on_gpu, on_cpu, strict=True):
            assert one_gpu.confidences == pytest.approx(one_cpu.confidences, rel=1e-3)


@pytest.mark.parametrize(("model", "options"), EACH_CASE)
def test_graphs_change_no_answer(model: LLaDAV, options: DecodingOptions) -> None:
    model = deepcopy(model).to("cuda", torch.bfloat16)
    memory = 40 * kv_block_bytes(model.config.language, torch.bfloat16, BLOCK_SIZE) + GRAPH_BYTES
    found = []
    for sizes in ([], capture_sizes(3, 12, 4)):
        engine = Engine(model, EngineConfig(memory, graph_sizes=sizes, prompt_bytes=2**20))
        assert sizes == [] or engine._runner._graphs is not None
        for prompt in some_prompts():
            engine.submit(prompt, options)
        found.append({name: answer.tokens for name, answer in run(engine).items()})
    assert found[0] == found[1]
