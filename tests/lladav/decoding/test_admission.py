"""Memory of running requests: never exceeded, waited for in order, given back at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lladav.config.schema import Attention
from lladav.decoding.admission import need_of
from lladav.decoding.engine import Engine
from lladav.decoding.kv_cache import bytes_of_page
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from tests.lladav.build import text_sample, tiny_model, variant
from tests.lladav.decoding.test_engine import MODEL, PAGE, TWELVE, engine_of, run


def test_a_request_that_does_not_fit_now_waits_its_turn() -> None:
    cached = replace(TWELVE, refresh_interval=4)
    engine = engine_of(pages=4)
    for name in "ab":
        engine.submit(text_sample(name, 20), cached)
    first = [update.id for _ in range(12) for update in engine.step()]
    assert set(first) == {"a"}
    assert set(run(engine)) == {"b"}


def test_a_request_that_can_never_fit_is_refused() -> None:
    engine = engine_of(pages=3)
    with pytest.raises(UserError, match="request p: 32 positions take 4 pages of K/V memory, which has 3"):
        engine.submit(text_sample("p", 20), replace(TWELVE, refresh_interval=4))
    engine.submit(text_sample("p", 20), TWELVE)


def test_cancelling_frees_the_memory_at_once() -> None:
    engine = engine_of()
    for name in "abc":
        engine.submit(text_sample(name, 20), replace(TWELVE, refresh_interval=4))
    engine.step()
    engine.submit(text_sample("d", 20), TWELVE)
    for name in "abd?":
        engine.cancel(name)
    assert engine.memory.table.total - engine.memory.table.free == engine.memory.pages_for(32)
    assert set(run(engine)) == {"c"}


def embeddings_of(positions: int) -> int:
    return positions * MODEL.config.language.width * 4


@pytest.mark.parametrize("options", [TWELVE, replace(TWELVE, refresh_interval=4)])
def test_a_prompt_waits_for_memory_of_its_embeddings(options: DecodingOptions) -> None:
    """With keys and values that are kept, and without."""
    engine = engine_of(prompt_bytes=embeddings_of(50))
    for name, length in (("a", 30), ("b", 20), ("c", 20)):
        engine.submit(text_sample(name, length), options)
    first = [update.id for _ in range(12) for update in engine.step()]
    assert set(first) == {"a", "b"}
    assert engine.admission.free_prompt_bytes == embeddings_of(50)
    assert set(run(engine)) == {"c"}
    assert engine.admission.free_prompt_bytes == embeddings_of(50)
    assert engine.memory.table.free == engine.memory.table.total


def test_a_prompt_whose_embeddings_never_fit_is_refused() -> None:
    engine = engine_of(prompt_bytes=embeddings_of(50))
    with pytest.raises(UserError, match="its prompt takes 6,528 bytes of embeddings, for which there"):
        engine.submit(text_sample("p", 51), TWELVE)


def test_memory_is_given_back_where_a_request_is_cancelled_or_waits_for_pages() -> None:
    engine = engine_of(pages=4, prompt_bytes=embeddings_of(100))
    for name in "ab":
        engine.submit(text_sample(name, 20), replace(TWELVE, refresh_interval=4))
    engine.step()
    assert engine.admission.free_prompt_bytes == embeddings_of(80)
    engine.cancel("a")
    assert engine.admission.free_prompt_bytes == embeddings_of(100)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("budget", [2**22, 2**30])
def test_an_engine_keeps_to_its_memory(budget: int, rows: int) -> None:
    """All rows can hold the longest prompts, or prompts have their share."""
    engine = Engine(MODEL, budget, rows, page=PAGE)
    taken = engine.memory.keys.nbytes + engine.memory.values.nbytes + engine.admission.prompt_bytes
    page = bytes_of_page(MODEL.config.language, torch.float32, PAGE)
    assert budget - page < taken <= budget
    longest = embeddings_of(MODEL.config.language.max_positions)
    assert engine.admission.prompt_bytes == min(rows * longest, budget // 7)


def test_who_sees_whom_counts_as_memory_of_a_prompt() -> None:
    model = variant(tiny_model(), attention=Attention.dialogue_causal)
    assert need_of(model.config, torch.float32, 20, TWELVE).prompt_bytes == embeddings_of(20) + 32 * 32
