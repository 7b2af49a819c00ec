"""The refresh interval rises with load and with short deadlines, within its range; costs match the engine."""

from __future__ import annotations

import pickle
import random
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lladav.decoding.engine import decode
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.sequence import DenoisingSequence
from serve.api.planning.decoding_plans import refresh_range
from serve.api.schemas.completion_requests import ChatRequest
from serve.engine import messages
from serve.engine.messages import EngineRequest
from serve.engine.refresh_policy import (
    RefreshRange,
    RequestCost,
    StepTimeModel,
    choose_interval,
    interval_for_load,
    latency_estimate,
)
from serve.settings import RefreshSettings
from tests.lladav.build import TOKENS, text_sample, tiny_model

MODEL = tiny_model(std=0.3)
NO_STOP = {"stop": ()}


@st.composite
def ranges(draw: st.DrawFn) -> RefreshRange:
    smallest = draw(st.integers(1, 32))
    return RefreshRange(smallest, draw(st.integers(smallest, 64)))


LOADS = st.floats(0, 10)
BUSY = st.floats(0.1, 8)
LEFT = st.floats(-1, 100)
ESTIMATES = st.lists(st.floats(0, 100), min_size=64, max_size=64).map(lambda each: lambda r: each[r - 1])


@given(ranges(), LOADS, BUSY, LEFT, ESTIMATES)
def test_the_interval_is_within_its_bounds(
    allowed: RefreshRange, load: float, busy: float, left: float, cost: Any
) -> None:
    assert allowed.min <= choose_interval(allowed, load, busy, left, cost) <= allowed.max


@given(ranges(), LOADS, LOADS, BUSY, LEFT, ESTIMATES)
def test_more_load_gives_no_smaller_interval(
    allowed: RefreshRange, load: float, more: float, busy: float, left: float, cost: Any
) -> None:
    low, high = sorted((load, more))
    assert choose_interval(allowed, low, busy, left, cost) <= choose_interval(allowed, high, busy, left, cost)


@given(ranges(), LOADS, BUSY, LEFT, LEFT, ESTIMATES)
def test_less_time_gives_no_smaller_interval(
    allowed: RefreshRange, load: float, busy: float, left: float, more: float, cost: Any
) -> None:
    short, long = sorted((left, more))
    assert choose_interval(allowed, load, busy, long, cost) <= choose_interval(
        allowed, load, busy, short, cost
    )


@pytest.mark.parametrize(
    ("load", "interval"), [(0, 1), (1, 1), (1.25, 3), (1.5, 8), (1.75, 23), (2, 64), (9, 64)]
)
def test_load_turns_the_dial_geometrically(load: float, interval: int) -> None:
    assert interval_for_load(RefreshRange(1, 64), load, busy=2.0) == interval


def test_the_deadline_gets_the_smallest_interval_that_fits_or_the_largest() -> None:
    allowed = RefreshRange(1, 16)
    assert choose_interval(allowed, 0, 2, 5.0, lambda r: 20 / r) == 4
    assert choose_interval(allowed, 0, 2, 0.1, lambda r: 20 / r) == 16
    assert choose_interval(allowed, 1.5, 2, 100.0, lambda r: 20 / r) == 4  # by load
    assert (
        choose_interval(allowed, 1.5, 2, 5.0, lambda r: 9.0 if r == 4 else 1.0) == 5
    )  # a forecast that is not monotone


def interval_of(given: dict[str, Any], load: float, seconds: float) -> int:
    """The interval of a request whose forecast is ``seconds``, divided by the interval."""
    request = ChatRequest.model_validate({"model": "m", "messages": QUESTION, **given})
    allowed = refresh_range(request.refresh_interval, request.deadline_ms is not None, BOUNDS)
    return choose_interval(
        allowed, load, BOUNDS.busy, (request.deadline_ms or 300_000) / 1000, lambda r: seconds / r
    )


QUESTION = [{"role": "user", "content": "?"}]
BOUNDS = RefreshSettings(min=1, max=64, default=2)
RANGE = {"refresh_interval": {"min": 1, "max": 16}}


@pytest.mark.parametrize(
    ("given", "load", "seconds", "interval"),
    [
        ({}, 9.0, 1.0, 2),
        ({}, 9.0, 3000.0, 2),  # nothing permits another one
        ({"deadline_ms": 300_000}, 9.0, 1.0, 2),
        ({"deadline_ms": 300_000}, 0.0, 1.0, 2),
        ({"deadline_ms": 1000}, 0.0, 8.0, 8),
        ({"deadline_ms": 1000}, 9.0, 8.0, 8),
        ({"deadline_ms": 1000}, 9.0, 9000.0, 64),
        ({"refresh_interval": 4, "deadline_ms": 1000}, 9.0, 9000.0, 4),
        (RANGE, 0.0, 1.0, 1),
        (RANGE, 9.0, 1.0, 16),
        ({**RANGE, "deadline_ms": 1000}, 0.0, 8.0, 8),
        ({**RANGE, "deadline_ms": 300_000}, 9.0, 1.0, 16),
    ],
)
def test_load_counts_for_a_range_and_a_deadline_if_it_is_near(
    given: dict[str, Any], load: float, seconds: float, interval: int
) -> None:
    assert interval_of(given, load, seconds) == interval


def test_a_request_keeps_its_seconds_left_on_a_host_with_another_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = EngineRequest("a", text_sample("answer", 9), 9, DecodingOptions(), RefreshRange(1, 1), 1007.0)
    monkeypatch.setattr(messages, "time", SimpleNamespace(time=lambda: 1000.0))
    sent = pickle.dumps(request)
    monkeypatch.setattr(messages, "time", SimpleNamespace(time=lambda: 4000.0))
    received = pickle.loads(sent)
    assert received.deadline == 4007.0
    assert (received.id, received.options, received.refresh) == (request.id, request.options, request.refresh)


CASES: list[dict[str, Any]] = [
    {},
    {"block_length": 4},
    {"block_length": 4, "tokens_per_step": 3},
    {"block_length": 6, "steps": 4, "suffix": (7, 8)},
    {"block_length": 4, "cache": Cache.dual, "suffix": (7,)},
    {"block_length": 4, "cache": Cache.none},
    {"block_length": 4, "infill": {0: 5, 3: 6, 4: 1, 5: 2, 6: 3, 7: 4}},
    {"block_length": 6, "tokens_per_step": 2, "infill": dict.fromkeys(range(9), 5)},
    {"block_length": 4, "guidance": 1.0},
]


@pytest.mark.parametrize("interval", [1, 2, 3, 5, 12, None])
@pytest.mark.parametrize("case", CASES)
def test_positions_are_those_that_the_engine_forwards(case: dict[str, Any], interval: int | None) -> None:
    options = DecodingOptions(**{"max_tokens": 12, **NO_STOP, **case, "refresh_interval": interval})
    (answer,) = decode(MODEL, [text_sample("p", 9)], options)
    cost = RequestCost(options, 9)
    assert (answer.forwards, answer.positions) == (cost.steps, cost.positions(interval))


@pytest.mark.parametrize("rule", [{"threshold": 0.3}, {"factor": 1.0}, {"entropy": 0.5}])
def test_if_confidence_decides_they_are_an_upper_bound(rule: dict[str, Any]) -> None:
    options = DecodingOptions(max_tokens=12, block_length=4, refresh_interval=3, **rule)
    (answer,) = decode(MODEL, [text_sample("p", 9)], options)
    assert answer.forwards <= RequestCost(options, 9).steps == 12
    assert answer.positions <= RequestCost(options, 9).positions(3)


@given(st.data())
def test_positions_are_those_of_the_state(data: st.DataObject) -> None:
    block, blocks = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    places = st.integers(0, block * blocks - 1)
    options = DecodingOptions(
        max_tokens=block * blocks,
        block_length=block,
        tokens_per_step=data.draw(st.integers(1, 9)),
        refresh_interval=data.draw(st.none() | st.integers(1, 9)),
        cache=data.draw(st.sampled_from(Cache)),
        suffix=(7,) * data.draw(st.integers(0, 3)),
        infill=dict.fromkeys(data.draw(st.sets(places)), 5),
    )
    prompt = data.draw(st.integers(1, 30))
    state = DenoisingSequence(prompt, options, TOKENS.mask_id)
    while not state.done:
        chosen = state.candidates[: int(state.rule.value)].tolist()
        state.fill(state.span, chosen, [1] * len(chosen), [0.5] * len(chosen))
    cost = RequestCost(options, prompt)
    assert (state.forwards, state.positions) == (cost.steps, cost.positions(options.refresh_interval))


def fitted(overhead: float, each: float, sizes: list[int], noise: float = 0.0) -> StepTimeModel:
    """A model of steps of these sizes."""
    model, drawn = StepTimeModel(), random.Random(0)
    for size in sizes:
        model.add(size, (overhead + each * size) * drawn.uniform(1 - noise, 1 + noise))
    return model


MIXED = [32, 400, 32, 32, 64, 800, 32, 96] * 20


def test_the_model_fits_both_numbers() -> None:
    assert fitted(0.02, 1e-4, MIXED).line == pytest.approx((0.02, 1e-4), rel=1e-6)
    assert fitted(0.02, 1e-4, MIXED, noise=0.1).line == pytest.approx((0.02, 1e-4), rel=0.2)


def test_the_model_follows_a_change_and_ignores_one_slow_step() -> None:
    model = fitted(0.02, 1e-4, MIXED)
    model.add(32, 60.0)
    assert model.seconds(1, 32) < 0.05
    for size in MIXED:
        model.add(size, 10 * (0.02 + 1e-4 * size))
    assert model.line == pytest.approx((0.2, 1e-3), rel=0.05)


def test_steps_of_one_size_give_no_overhead() -> None:
    assert fitted(0.02, 1e-4, [100] * 50).line == pytest.approx((0.0, 3e-4))
    assert StepTimeModel().line == (0.0, 0.0)
    assert StepTimeModel().positions == 0.0


@given(st.lists(st.tuples(st.integers(0, 10000), st.floats(0, 100)), max_size=60))
def test_the_model_is_never_negative(steps: list[tuple[int, float]]) -> None:
    model = StepTimeModel()
    for size, seconds in steps:
        model.add(size, seconds)
        assert min(model.line) >= 0


def test_an_estimate_adds_overheads_own_positions_and_others() -> None:
    model = fitted(0.02, 1e-4, MIXED)
    options = DecodingOptions(max_tokens=12, block_length=4)
    alone = 12 * 0.02 + 1e-4 * RequestCost(options, 100).positions(4)
    assert latency_estimate(model, options, 100)(4) == pytest.approx(alone)
    assert latency_estimate(model, options, 100, other_positions=50)(4) == pytest.approx(
        alone + 12 * 50 * 1e-4
    )
    guided = latency_estimate(model, replace(options, guidance=1.0), 100)(4)
    assert guided == pytest.approx(alone + 1e-4 * RequestCost(options, 100).positions(4))


def test_estimates_for_all_intervals_are_fast_with_many_blocks() -> None:
    count = 8192
    options = DecodingOptions(max_tokens=count, block_length=1, infill=dict.fromkeys(range(1, count), 5))
    since = time.process_time()
    seconds = latency_estimate(fitted(0.02, 1e-4, MIXED), options, 100)
    assert len({seconds(interval) for interval in range(1, 65)}) == 1
    assert time.process_time() - since < 2.0
