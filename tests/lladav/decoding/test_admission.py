"""Memory of running requests: never exceeded, allocated in order, freed at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lladav.config.schema import Attention
from lladav.decoding.admission import memory_need
from lladav.decoding.engine import Engine, EngineConfig
from lladav.decoding.kv_cache import kv_block_bytes
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import text_sample, tiny_model, variant
from tests.lladav.decoding.test_engine import (
    BLOCK_SIZE,
    MODEL,
    NEXT_TOKEN_MODEL,
    NEXT_TOKEN_OPTIONS,
    TWELVE,
    engine_of,
    run,
)


def test_a_request_waits_until_its_memory_is_free() -> None:
    cached = replace(TWELVE, refresh_interval=4)
    engine = engine_of(blocks=4)
    for name in "ab":
        engine.submit(text_sample(name, 20), cached)
    first = [update.id for _ in range(12) for update in engine.step()]
    assert set(first) == {"a"}
    assert set(run(engine)) == {"b"}


def test_a_request_larger_than_the_cache_is_refused() -> None:
    engine = engine_of(blocks=3)
    with pytest.raises(UserError, match="request p: 32 positions take 4 KV blocks, and the KV cache has 3"):
        engine.submit(text_sample("p", 20), replace(TWELVE, refresh_interval=4))
    engine.submit(text_sample("p", 20), TWELVE)


@pytest.mark.parametrize(
    ("model", "options"),
    [(MODEL, replace(TWELVE, refresh_interval=4)), (NEXT_TOKEN_MODEL, NEXT_TOKEN_OPTIONS[0])],
)
def test_cancel_frees_the_memory_at_once(model: LLaDAV, options: DecodingOptions) -> None:
    engine = engine_of(model=model)
    for name in "abc":
        engine.submit(text_sample(name, 20), options)
    engine.step()
    engine.submit(text_sample("d", 20), options)
    for name in "abd?":
        engine.cancel(name)
    assert engine.kv_cache.total_blocks - engine.kv_cache.free_blocks == engine.kv_cache.blocks_for(32)
    assert set(run(engine)) == {"c"}


def embedding_bytes(positions: int) -> int:
    return positions * MODEL.config.language.width * 4


@pytest.mark.parametrize("options", [TWELVE, replace(TWELVE, refresh_interval=4)])
def test_a_prompt_waits_for_memory_of_its_embeddings(options: DecodingOptions) -> None:
    """With cached keys and values, and without."""
    engine = engine_of(prompt_bytes=embedding_bytes(50))
    for name, length in (("a", 30), ("b", 20), ("c", 20)):
        engine.submit(text_sample(name, length), options)
    first = [update.id for _ in range(12) for update in engine.step()]
    assert set(first) == {"a", "b"}
    assert engine.admission.free_prompt_bytes == embedding_bytes(50)
    assert set(run(engine)) == {"c"}
    assert engine.admission.free_prompt_bytes == embedding_bytes(50)
    assert engine.kv_cache.free_blocks == engine.kv_cache.total_blocks


def test_a_prompt_larger_than_the_memory_of_embeddings_is_refused() -> None:
    engine = engine_of(prompt_bytes=embedding_bytes(50))
    with pytest.raises(UserError, match="the embeddings of its prompt take 6,528 bytes, and there are"):
        engine.submit(text_sample("p", 51), TWELVE)


def test_a_request_that_waits_for_kv_blocks_holds_no_memory_of_embeddings() -> None:
    engine = engine_of(blocks=4, prompt_bytes=embedding_bytes(100))
    for name in "ab":
        engine.submit(text_sample(name, 20), replace(TWELVE, refresh_interval=4))
    engine.step()
    assert engine.admission.free_prompt_bytes == embedding_bytes(80)
    engine.cancel("a")
    assert engine.admission.free_prompt_bytes == embedding_bytes(100)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("budget", [2**22, 2**30])
def test_an_engine_stays_within_its_memory(budget: int, rows: int) -> None:
    """Prompts get what the longest prompts of all rows need, or their share of the budget."""
    engine = Engine(MODEL, EngineConfig(budget, rows, block_size=BLOCK_SIZE))
    allocated = engine.kv_cache.keys.nbytes + engine.kv_cache.values.nbytes + engine.admission.prompt_bytes
    block = kv_block_bytes(MODEL.config.language, torch.float32, BLOCK_SIZE)
    assert budget - block < allocated <= budget
    longest = embedding_bytes(MODEL.config.language.max_positions)
    assert engine.admission.prompt_bytes == min(rows * longest, budget // 7)


def test_an_attention_mask_counts_as_memory_of_a_prompt() -> None:
    model = variant(tiny_model(), attention=Attention.dialogue_causal)
    assert memory_need(model.config, torch.float32, 20, TWELVE).prompt_bytes == embedding_bytes(20) + 32 * 32
