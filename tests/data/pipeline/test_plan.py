"""Global batches depend on lengths, seed and step alone; workers and micro-batch only cut them up, evenly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pipeline.plan import BatchLayout, Plan, deal
from lladav.config.schema import Config, StageConfig, TrainConfig
from lladav.errors import UserError

LENGTHS = st.lists(st.integers(1, 16384), min_size=1, max_size=120).map(lambda x: np.array(x, np.int32))


@dataclass(frozen=True)
class Sizes:
    """A global batch and ways to cut it."""

    micro_batch: int
    workers: int
    slots: int

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.workers * self.slots

    @property
    def layout(self) -> BatchLayout:
        return BatchLayout(self.slots, self.workers)


SIZES = st.builds(Sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def plan_of(lengths: np.ndarray, batch: int, seed: int = 0) -> Plan:
    return Plan(lengths, seed, batch, steps=1000)


def cells(plan: Plan, step: int, layout: BatchLayout) -> list:
    """Every micro-batch of a step, rank by rank."""
    return [
        plan.micro_batch(step, slot, rank, layout)
        for rank in range(layout.workers)
        for slot in range(layout.slots)
    ]


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3))
def test_an_epoch_has_each_sample_once(lengths: np.ndarray, batch: int, epoch: int) -> None:
    plan = plan_of(lengths, batch)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    seen = np.concatenate([plan.global_batch(step) for step in steps])
    assert sorted(seen) == list(range(len(lengths)))
    assert all(plan.epoch(step) == epoch for step in steps)
    assert all(len(plan.global_batch(step)) == batch for step in steps[:-1])


@given(LENGTHS, SIZES, st.integers(0, 20))
def test_micro_batches_are_the_global_batch_cut_up(lengths: np.ndarray, sizes: Sizes, step: int) -> None:
    plan = plan_of(lengths, sizes.global_batch)
    batch, cut = plan.global_batch(step), cells(plan, step, sizes.layout)
    assert sorted(np.concatenate([cell.places for cell in cut])) == list(range(len(batch)))
    for cell in cut:
        np.testing.assert_array_equal(cell.rows, batch[cell.places])
        assert cell.global_samples == len(batch)
        assert len(cell.rows) <= sizes.micro_batch


@given(LENGTHS, SIZES, st.integers(0, 20))
def test_no_rank_gets_more_samples_than_it_must(lengths: np.ndarray, sizes: Sizes, step: int) -> None:
    plan = plan_of(lengths, sizes.global_batch)
    counts = [len(cell.rows) for cell in cells(plan, step, sizes.layout)]
    if len(plan.global_batch(step)) == sizes.global_batch:
        assert set(counts) == {sizes.micro_batch}
    if len(plan.global_batch(step)) >= len(counts):
        assert min(counts) >= 1


@given(LENGTHS, SIZES)
def test_micro_batches_most_alike_share_a_slot(lengths: np.ndarray, sizes: Sizes) -> None:
    dealt = deal(lengths[: sizes.global_batch], sizes.layout)
    tokens = [[int(lengths[places].sum()) for places in slot] for slot in dealt]
    assert all(min(earlier) >= max(later) for earlier, later in pairwise(tokens))


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_ranks_wait_far_less_than_if_dealt_in_plan_order(micro_batch: int) -> None:
    """Lengths are as skewed as those of instruction data; one sample alone can exceed all others."""
    lengths = np.random.default_rng(0).lognormal(7, 0.7, 256).astype(np.int32)
    layout = BatchLayout(slots=32 // micro_batch, workers=8)
    tokens = np.array([[lengths[places].sum() for places in slot] for slot in deal(lengths, layout)])
    in_order = lengths.reshape(*tokens.shape, micro_batch).sum(-1)

    def waiting(tokens: np.ndarray) -> float:
        return 1 - tokens.sum() / (tokens.max(1).sum() * layout.workers)

    assert waiting(tokens) < waiting(in_order) / 4
    assert tokens.max() <= in_order.max()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = np.ones(1000, np.int32)
    orders = {
        tuple(plan_of(lengths, 1000, seed).global_batch(epoch).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_the_order_is_spread_evenly() -> None:
    """Each position of a batch is as likely to hold an early as a late sample."""
    plan = plan_of(np.ones(1000, np.int32), 100)
    halves = Counter(int(row >= 500) for step in range(200) for row in plan.global_batch(step)[:10])
    assert abs(halves[0] - halves[1]) < 200


def test_the_order_never_changes() -> None:
    """A run must find its batches again with any later version of the libraries."""
    plan = plan_of(np.ones(12, np.int32), 12, seed=42)
    assert plan.global_batch(0).tolist() == [5, 1, 11, 7, 9, 0, 8, 2, 10, 6, 4, 3]
    assert plan.global_batch(1).tolist() == [10, 6, 1, 9, 4, 8, 5, 7, 2, 11, 0, 3]


@dataclass(frozen=True)
class Tokens:
    lengths: np.ndarray


def config(**train) -> Config:
    return Config(stage=StageConfig(name="s", global_batch=4, epochs=3), train=TrainConfig(**train))


def test_steps_follow_from_samples_and_epochs_unless_given() -> None:
    ten = Tokens(np.ones(10, np.int32))
    assert Plan.of(ten, config()).steps == 9
    assert Plan.of(ten, config(max_steps=50)).steps == 50


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(UserError, match="no samples to train on"):
        Plan.of(Tokens(np.ones(0, np.int32)), config())


@pytest.mark.parametrize(("micro_batch", "workers", "slots"), [(1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 3, 2)])
def test_slots_hold_the_global_batch(micro_batch: int, workers: int, slots: int) -> None:
    assert BatchLayout.of(config(micro_batch=micro_batch), workers) == BatchLayout(slots, workers)
