"""Global batches depend on lengths, seed and step only; workers and micro-batches divide them evenly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pipeline.plan import BatchLayout, Plan, divide_batch
from data.pipeline.selection import Selection
from lladav.config.sampling import parse_sampling
from lladav.config.schema import Config, SourceConfig, StageConfig, TrainConfig
from lladav.errors import UserError

LENGTHS = st.lists(st.integers(1, 16384), min_size=1, max_size=120).map(lambda x: np.array(x, np.int32))


@dataclass(frozen=True)
class Sizes:
    """A global batch and its division."""

    micro_batch: int
    workers: int
    accumulation_steps: int

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.workers * self.accumulation_steps

    @property
    def layout(self) -> BatchLayout:
        return BatchLayout(self.accumulation_steps, self.workers)


SIZES = st.builds(Sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def plan_of(lengths: np.ndarray, batch: int, seed: int = 0) -> Plan:
    return Plan(lengths, seed, batch, steps=1000)


def micro_batches(plan: Plan, step: int, layout: BatchLayout) -> list:
    """Every micro-batch of a step, rank by rank."""
    return [
        plan.micro_batch(step, micro_step, rank, layout)
        for rank in range(layout.workers)
        for micro_step in range(layout.accumulation_steps)
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
def test_micro_batches_divide_the_global_batch(lengths: np.ndarray, sizes: Sizes, step: int) -> None:
    plan = plan_of(lengths, sizes.global_batch)
    batch, parts = plan.global_batch(step), micro_batches(plan, step, sizes.layout)
    assert sorted(np.concatenate([part.positions for part in parts])) == list(range(len(batch)))
    for part in parts:
        np.testing.assert_array_equal(part.rows, batch[part.positions])
        assert part.global_samples == len(batch)
        assert len(part.rows) <= sizes.micro_batch


@given(LENGTHS, SIZES, st.integers(0, 20))
def test_samples_are_distributed_evenly(lengths: np.ndarray, sizes: Sizes, step: int) -> None:
    plan = plan_of(lengths, sizes.global_batch)
    counts = [len(part.rows) for part in micro_batches(plan, step, sizes.layout)]
    if len(plan.global_batch(step)) == sizes.global_batch:
        assert set(counts) == {sizes.micro_batch}
    if len(plan.global_batch(step)) >= len(counts):
        assert min(counts) >= 1


@given(LENGTHS, SIZES)
def test_similar_micro_batches_share_an_accumulation_step(lengths: np.ndarray, sizes: Sizes) -> None:
    divided = divide_batch(lengths[: sizes.global_batch], sizes.layout)
    tokens = [[int(lengths[positions].sum()) for positions in ranks] for ranks in divided]
    assert all(min(earlier) >= max(later) for earlier, later in pairwise(tokens))


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_ranks_wait_far_less_than_if_divided_in_plan_order(micro_batch: int) -> None:
    """The lengths are skewed like those of instruction data: one sample can exceed all others together."""
    lengths = np.random.default_rng(0).lognormal(7, 0.7, 256).astype(np.int32)
    layout = BatchLayout(accumulation_steps=32 // micro_batch, workers=8)
    divided = divide_batch(lengths, layout)
    tokens = np.array([[lengths[positions].sum() for positions in ranks] for ranks in divided])
    in_order = lengths.reshape(*tokens.shape, micro_batch).sum(-1)

    def waiting(tokens: np.ndarray) -> float:
        return 1 - tokens.sum() / (tokens.max(1).sum() * layout.workers)

    assert waiting(tokens) < waiting(in_order) / 4
    assert tokens.max() <= in_order.max()


def test_every_epoch_and_seed_has_its_own_order() -> None:
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
    """A resumed run needs the same batches with any later version of the libraries."""
    plan = plan_of(np.ones(12, np.int32), 12, seed=42)
    assert plan.global_batch(0).tolist() == [5, 1, 11, 7, 9, 0, 8, 2, 10, 6, 4, 3]
    assert plan.global_batch(1).tolist() == [10, 6, 1, 9, 4, 8, 5, 7, 2, 11, 0, 3]


@dataclass(frozen=True)
class Tokens:
    """Samples of sources that are called a, b, c ..."""

    lengths: np.ndarray
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    held_out_hashes: np.ndarray = field(default_factory=lambda: np.zeros(0))


def config(**train) -> Config:
    return Config(stage=StageConfig(name="s", global_batch=4, epochs=3), train=TrainConfig(**train))


def test_selected_samples_come_once_per_epoch_and_count_for_the_steps() -> None:
    settings = config(seed=7)
    settings.data.fraction, settings.stage.sources = 0.5, ["a"]
    settings.data.sources = {"a": SourceConfig(sample="end:10")}
    plan = Plan.of(Tokens(np.ones(40, np.int32), np.zeros(40, np.int16)), settings)
    assert (plan.samples, plan.steps, plan.steps_per_epoch) == (5, 6, 2)
    epochs = [np.concatenate([plan.global_batch(2 * epoch + n) for n in range(2)]) for epoch in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) and min(epoch) >= 30 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_taking_all_samples_gives_the_plan_without_a_selection() -> None:
    lengths = np.arange(1, 31, dtype=np.int32)
    whole = Selection((parse_sampling("random:100%"),), 1.0, seed=0).rows(np.zeros(30, np.int16))
    with_rows, without = Plan(lengths, 0, 7, 10, whole), Plan(lengths, 0, 7, 10)
    assert all(np.array_equal(with_rows.global_batch(n), without.global_batch(n)) for n in range(10))


def test_the_number_of_steps_comes_from_samples_and_epochs_unless_set() -> None:
    ten = Tokens(np.ones(10, np.int32))
    assert Plan.of(ten, config()).steps == 9
    assert Plan.of(ten, config(max_steps=50)).steps == 50


def test_a_stage_without_samples_is_an_error() -> None:
    with pytest.raises(UserError, match="no samples to train on"):
        Plan.of(Tokens(np.ones(0, np.int32)), config())


@pytest.mark.parametrize(
    ("micro_batch", "workers", "accumulation_steps"), [(1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 3, 2)]
)
def test_accumulation_steps_hold_the_global_batch(
    micro_batch: int, workers: int, accumulation_steps: int
) -> None:
    layout = BatchLayout.of(config(micro_batch=micro_batch), workers)
    assert layout == BatchLayout(accumulation_steps, workers)


def test_an_epoch_has_the_copies_of_a_repeated_source() -> None:
    lengths = np.array([5, 9, 1], np.int32)
    rows = Selection((None, None), 1.0, 0, (1.0, 2.0)).rows(np.array([0, 1, 1]))
    plan = Plan(lengths, seed=0, global_batch=2, steps=100, rows=rows)
    assert (plan.samples, plan.steps_per_epoch) == (5, 3)
    for epoch in range(2):
        steps = range(3 * epoch, 3 * epoch + 3)
        assert sorted(np.concatenate([plan.global_batch(step) for step in steps])) == [0, 1, 2, 4, 5]
    batches = [plan.micro_batch(step, 0, 0, BatchLayout(1, 1)) for step in range(3)]
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
