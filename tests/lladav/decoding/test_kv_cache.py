"""The K/V memory: pages are taken once, given back once, and read as they were written."""

from __future__ import annotations

import random

import pytest
import torch

from lladav.config.schema import LanguageConfig
from lladav.decoding.kv_cache import KVMemory, PageTable, Slots, bytes_of_page
from lladav.errors import UserError

CONFIG = LanguageConfig(vocab_size=8, width=8, mlp_width=8, layers=2, heads=2, kv_heads=1)
PAGE = 4
CPU = torch.device("cpu")


def memory_of(pages: int) -> KVMemory:
    budget = pages * bytes_of_page(CONFIG, torch.float32, PAGE)
    return KVMemory(CONFIG, budget, torch.float32, CPU, PAGE)


def test_ten_thousand_admissions_and_cancellations_leak_nothing() -> None:
    draw, table = random.Random(0), PageTable(50)
    held: list[list[int]] = []
    for _ in range(10_000):
        if held and draw.random() < 0.5:
            table.give_back(held.pop(draw.randrange(len(held))))
        elif (taken := table.take(draw.randint(1, 12))) is not None:
            held.append(taken)
        used = [page for pages in held for page in pages]
        assert len(used) == len(set(used)) == table.total - table.free
    for pages in held:
        table.give_back(pages)
    assert table.free == table.total


def test_nothing_is_taken_where_there_is_too_little() -> None:
    table = PageTable(3)
    assert table.take(2) == [0, 1]
    assert table.take(2) is None
    assert table.free == 1


def test_pages_side_by_side_are_preferred() -> None:
    table = PageTable(6)
    first, second = table.take(1), table.take(1)
    assert first is not None
    table.give_back(first)
    assert table.take(3) == [2, 3, 4]
    assert second is not None
    table.give_back(second)
    assert table.take(3) == [0, 1, 5]


def test_a_page_is_given_back_once() -> None:
    table = PageTable(2)
    table.take(1)
    table.give_back([0])
    with pytest.raises(ValueError, match="page 0 is free"):
        table.give_back([0])


@pytest.mark.parametrize("pages", [[0, 1, 2], [3, 0, 2]])
def test_what_is_written_is_read_back_in_order(pages: list[int]) -> None:
    memory, slots = memory_of(4), Slots(pages)
    keys, values = torch.randn(2, 10, 1, 4)
    memory.write(1, slots, 0, keys, values)
    memory.write(1, slots, 3, keys[3:5] + 1, values[3:5] + 1)
    keys[3:5] += 1
    values[3:5] += 1
    for read, expected in zip(memory.read(1, slots, 10), (keys, values), strict=True):
        assert torch.equal(read, expected)


def test_a_budget_below_a_page_is_refused() -> None:
    with pytest.raises(UserError, match="less than a page"):
        KVMemory(CONFIG, 10, torch.float32, CPU, PAGE)


def test_the_memory_keeps_to_its_budget() -> None:
    memory = memory_of(3)
    assert memory.keys.nbytes + memory.values.nbytes == 3 * bytes_of_page(CONFIG, torch.float32, PAGE)
    assert memory.pages_for(9) == 3
    assert memory.take(13) is None
