"""Replicas follow the load: up quickly, down slowly, without oscillation, always within their bounds."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve.ops.autoscaling import (
    STALE_SECONDS,
    STATS,
    EngineLoad,
    PolicyState,
    ScalingRules,
    autoscaling_config,
    decide,
    load_of,
    state_of,
)
from serve.settings import ScalingSettings

HOUR, ROWS, TICK = 3600.0, 16, 0.5
RULES = ScalingRules()


def load(target: int, demand: float = 0.0, *, oldest: float = 0.0, **changes: Any) -> EngineLoad:
    """The load of ``target`` running replicas; demand beyond their rows waits."""
    rows = float(ROWS * target)
    used = min(demand, rows)
    full = EngineLoad(target, target, target, used, rows, demand - used, oldest, max_replicas=8)
    return replace(full, **changes)


def decisions(loads: list[EngineLoad], seconds: float = 1.0, rules: ScalingRules = RULES) -> list[int]:
    """The decisions for these loads, ``seconds`` apart; decisions do not change later loads."""
    state, found = PolicyState(), []
    for number, each in enumerate(loads):
        replicas, state = decide(each, state, rules, number * seconds)
        found.append(replicas)
    return found


def test_rules_have_the_fields_and_defaults_of_the_settings() -> None:
    assert asdict(ScalingRules()) == ScalingSettings().model_dump(exclude={"external"})


def test_scaling_up_waits_for_the_delay_and_then_goes_to_the_full_number() -> None:
    assert decisions([load(1, 60)] * 3) == [1, 1, 5]  # 60 / (0.8 * 16) = 4.7


def test_an_interrupted_need_restarts_the_delay() -> None:
    assert decisions([load(1, 60), load(1, 60), load(1, 8), load(1, 60), load(1, 60)]) == [1] * 5


def test_nothing_changes_between_the_bounds() -> None:
    assert set(decisions([load(2, 0.5 * 32)] * 300)) == {2}


def test_an_old_queue_adds_one_replica_even_if_few_rows_are_used() -> None:
    ages = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert decisions([load(2, 12, oldest=age) for age in ages]) == [2, 2, 2, 2, 2, 3]


def test_requests_older_than_the_last_replica_add_no_further_one() -> None:
    assert set(decisions([load(2, 12, oldest=50.0 + second) for second in range(60)])) == {2}


def test_starting_replicas_are_not_requested_again() -> None:
    starting = load(5, 60, running=1, reported=1, rows=16.0, rows_used=16.0, waiting=44.0)
    slow = [replace(starting, oldest_waiting_seconds=float(second)) for second in range(600)]
    assert set(decisions(slow)) == {5}


def test_one_replica_at_a_time_is_removed_after_the_delay() -> None:
    assert decisions([load(4, 6)] * 7, seconds=10.0) == [4, 4, 4, 4, 4, 4, 3]


def test_no_replica_is_removed_if_the_others_would_be_too_full() -> None:
    eager = ScalingRules(upper=0.5, lower=0.45)
    assert set(decisions([load(2, 0.4 * 32)] * 300, rules=eager)) == {2}


def test_replicas_without_a_report_are_not_idle() -> None:
    silent = load(2, reported=1, rows=16.0)
    assert set(decisions([silent] * 300)) == {2}
    assert set(decisions([load(1, reported=0, rows=0.0)] * 300)) == {1}


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (load(1), 0),
        (load(1, 1), 1),
        (load(1, queued=1.0), 1),
        (load(1, min_replicas=1), 1),
    ],
)
def test_the_last_replica_is_removed_only_without_demand(last: EngineLoad, expected: int) -> None:
    assert decisions([last] * 100)[60] == expected


def test_scaling_from_zero_has_no_delay() -> None:
    assert decisions([load(0), load(0, queued=1.0)]) == [0, 1]


def test_scaling_from_zero_goes_to_the_full_number_if_the_replica_size_is_known() -> None:
    replicas, _ = decide(load(0, queued=60.0), PolicyState(rows_per_replica=16.0), RULES, 0.0)
    assert replicas == 5


NUMBERS = st.floats(0, 1000)


@st.composite
def any_load(draw: st.DrawFn) -> EngineLoad:
    least = draw(st.integers(0, 5))
    values: dict[str, Any] = {name: draw(st.integers(0, 20)) for name in ("target", "running", "reported")}
    values |= {name: draw(NUMBERS) for name in (*STATS, "queued")}
    most = least + draw(st.integers(1, 5))
    return EngineLoad(**values, min_replicas=least, max_replicas=most)


@given(st.lists(any_load(), max_size=20), st.floats(0, 100))
def test_never_outside_the_bounds(loads: list[EngineLoad], seconds: float) -> None:
    for each, replicas in zip(loads, decisions(loads, seconds), strict=True):
        assert each.min_replicas <= replicas <= each.max_replicas


@dataclass
class Replica:
    """A simulated replica: it starts, serves rows, and drains when it is removed."""

    starts: float
    ends: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    reported: bool = False


@dataclass
class Simulation:
    """Simulates requests of about ``service`` seconds; replicas take ``start`` seconds to start."""

    rate: Callable[[float], float]
    start: float = 30.0
    service: float = 10.0
    most: int = 8
    least: int = 1
    noise: random.Random = field(default_factory=lambda: random.Random(1))
    counts: list[int] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    queue: int = 0

    def run(self, seconds: float = HOUR, begin: int = 1) -> list[int]:
        """The target at each tick."""
        self.replicas = [Replica(0.0) for _ in range(begin)]
        state = PolicyState()
        for tick in range(int(seconds / TICK)):
            now = tick * TICK
            self._arrive(now)
            self._serve(now)
            wanted, state = decide(self._load(now), state, RULES, now)
            self._scale(wanted, now)
            self.counts.append(wanted)
        return self.counts

    def _arrive(self, now: float) -> None:
        limit, product = math.exp(-self.rate(now) * TICK), self.noise.random()
        while product > limit:  # Poisson
            self.queue, product = self.queue + 1, product * self.noise.random()
        up = [r for r in self.replicas if r.starts <= now]
        while up and self.queue:
            min(up, key=lambda r: len(r.ends) + len(r.waiting)).waiting.append(now)
            self.queue -= 1

    def _serve(self, now: float) -> None:
        for each in self.replicas:
            each.ends = [end for end in each.ends if end > now]
            while each.waiting and len(each.ends) < ROWS:
                each.waiting.pop(0)
                each.ends.append(now + self.service * self.noise.uniform(0.5, 1.5))

    def _load(self, now: float) -> EngineLoad:
        up = [r for r in self.replicas if r.starts <= now]
        reporting = [r for r in up if r.starts + 2 * TICK <= now]
        oldest = max((now - r.waiting[0] for r in reporting if r.waiting), default=0.0)
        rows, used = float(ROWS * len(reporting)), float(sum(len(r.ends) for r in reporting))
        waiting = float(sum(len(r.waiting) for r in reporting))
        counts = len(self.replicas), len(up), len(reporting)
        return EngineLoad(*counts, used, rows, waiting, oldest, float(self.queue), self.least, self.most)

    def _scale(self, wanted: int, now: float) -> None:
        while len(self.replicas) < wanted:
            self.replicas.append(Replica(now + self.start))
        if len(self.replicas) > wanted:
            spare = min(self.replicas, key=lambda r: len(r.ends))
            self.replicas.remove(spare)
            self.queue += len(spare.waiting)


def turns(counts: list[int]) -> int:
    """How often the number of replicas changes direction."""
    steps = [after - before for before, after in itertools.pairwise(counts) if after != before]
    return sum(one * other < 0 for one, other in itertools.pairwise(steps))


@pytest.mark.parametrize("rate", [0.5, 1.5, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("start", [1.0, 30.0, 120.0])
def test_a_constant_noisy_load_settles(rate: float, start: float) -> None:
    """An hour of random arrivals has one or two peaks that justify another replica."""
    counts = Simulation(lambda _: rate, start).run()
    assert turns(counts) <= 4
    assert len(set(counts[len(counts) // 2 :])) <= 2
    used = rate * 10 / ROWS
    assert used / 0.9 <= counts[-1] <= used / 0.3 + 1


def test_a_step_is_followed_within_seconds() -> None:
    counts = Simulation(lambda now: 1.0 if now < 600 else 6.0).run(900)
    reached = next(tick for tick, count in enumerate(counts) if count >= 4) * TICK
    assert 600 < reached < 630


def test_a_burst_adds_replicas_for_a_while() -> None:
    counts = Simulation(lambda now: 8.0 if 600 <= now < 660 else 0.2).run()
    assert 3 <= max(counts) <= 8
    assert counts[-1] == 1
    assert turns(counts) == 1


def test_without_load_replicas_go_to_zero_and_come_back() -> None:
    counts = Simulation(lambda now: 4.0 if now < 600 or now > 2400 else 0.0, least=0).run()
    assert counts[int(2300 / TICK)] == 0
    assert counts[-1] >= 3
    back = next(tick for tick in range(int(2400 / TICK), len(counts)) if counts[tick] > 0) * TICK
    assert back < 2405


def test_slow_waves_change_direction_once_per_half_wave() -> None:
    counts = Simulation(lambda now: 3.0 + 2.8 * math.sin(now / 600)).run(4 * HOUR)
    assert turns(counts) <= 2 * (4 * HOUR / (2 * math.pi * 600)) + 2


REPLICAS = [ReplicaID(str(number), DeploymentID("Engine", "default")) for number in range(3)]


def context(
    replicas: int, reports: dict[int, tuple[float, float, float, float]], age: float = 1.0, **changes: Any
) -> AutoscalingContext:
    """The context that Serve's controller passes to a policy; ``reports`` are the ``STATS`` by replica."""
    now = 1000.0
    raw = {
        name: {
            REPLICAS[replica]: [
                TimeStampedValue(now - age - 5, 99.0),
                TimeStampedValue(now - age, values[index]),
            ]
            for replica, values in reports.items()
        }
        for index, name in enumerate(STATS)
    }
    settings = autoscaling_config(0, 4, {"up_seconds": 0.0})
    values: dict[str, Any] = {
        "deployment_id": REPLICAS[0].deployment_id,
        "deployment_name": "Engine",
        "app_name": "default",
        "current_num_replicas": replicas,
        "target_num_replicas": replicas,
        "running_replicas": REPLICAS[:replicas],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": {},
        "raw_metrics": raw if reports else {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 4,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": now,
        "config": AutoscalingConfig(**settings),
    }
    return AutoscalingContext(**{**values, **changes})


def test_the_latest_fresh_reports_are_the_load() -> None:
    reports = {0: (3.0, 16.0, 1.0, 0.5), 1: (4.0, 16.0, 2.0, 1.5)}
    found = load_of(context(2, reports, total_queued_requests=5.0, total_num_requests=20.0), 1000.0)
    assert found == EngineLoad(2, 2, 2, 7.0, 32.0, 3.0, 1.5, 5.0, 0, 4)


def test_missing_partial_and_stale_reports_do_not_count() -> None:
    assert load_of(context(2, {}), 1000.0).reported == 0
    assert load_of(context(2, {0: (0.0, 16.0, 0.0, 0.0)}), 1000.0).reported == 1
    assert load_of(context(2, {0: (0.0, 16.0, 0.0, 0.0)}, age=STALE_SECONDS + 1), 1000.0).reported == 0
    partial = context(2, {0: (0.0, 16.0, 0.0, 0.0)})
    partial.raw_metrics["waiting"].clear()  # type: ignore[index]
    assert load_of(partial, 1000.0).reported == 0


def test_without_replicas_every_request_counts() -> None:
    assert load_of(context(0, {}, total_num_requests=2.0), 1000.0).queued == 2.0


def test_state_survives_serve_and_ignores_its_keys() -> None:
    state = PolicyState(up_since=3.0, rows_per_replica=16.0)
    assert state_of({**asdict(state), "__serve_counter": 4}) == state
    assert state_of({}) == state_of(None) == PolicyState()
    assert {field.name for field in fields(PolicyState)} == set(asdict(state))


def serves_policy(rules: dict[str, float]) -> Callable[[AutoscalingContext], tuple[int, dict[str, Any]]]:
    """The policy as in Serve's controller: unpickled, built with its keywords, wrapped in Serve's delays."""
    config = AutoscalingConfig(**autoscaling_config(0, 4, rules))
    return _apply_autoscaling_config(_resolve_policy_callable(config.policy))  # type: ignore[return-value]


def test_serve_does_not_change_the_decision() -> None:
    policy = serves_policy({"up_seconds": 0.0, "down_seconds": 10.0})
    full = {0: (16.0, 16.0, 20.0, 1.0)}
    assert policy(context(1, full))[0] == 3
    idle = dict.fromkeys(range(2), (0.0, 16.0, 0.0, 0.0))
    replicas, state = policy(context(2, idle))
    assert replicas == 2
    assert policy(context(2, idle, current_time=1009.0, policy_state=state))[0] == 2
    assert policy(context(2, idle, current_time=1011.0, policy_state=state))[0] == 1


def test_serve_scales_to_zero_and_back() -> None:
    policy = serves_policy({"down_seconds": 0.0})
    assert policy(context(1, {0: (0.0, 16.0, 0.0, 0.0)}))[0] == 0
    assert policy(context(0, {}, total_num_requests=3.0))[0] == 1


ELSEWHERE = """
import pickle, sys
policy = pickle.load(sys.stdin.buffer)(up_seconds=0.5)
assert policy.rules.up_seconds == 0.5
print(*{name.partition(".")[0] for name in sys.modules} & {"data", "lladav", "serve", "train"})
"""


def test_the_policy_loads_where_the_project_is_not_installed(tmp_path: Path) -> None:
    """Serve's controller may run in such an environment."""
    definition = AutoscalingConfig(**autoscaling_config(0, 4, {})).policy.get_serialized_policy_def()
    isolated = [sys.executable, "-I", "-c", ELSEWHERE]
    done = subprocess.run(isolated, input=definition, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == []


def test_unknown_rules_are_an_error() -> None:
    with pytest.raises(TypeError, match="uper"):
        serves_policy({"uper": 0.5})
