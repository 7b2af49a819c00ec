"""The autoscaling of engine replicas: a pure decision function and the Ray Serve policy that calls it.

The policy is pickled by value and sent to Serve's controller, where this project may not be importable. So
this module imports only the standard library, and ``ScalingRules`` copies ``serve.settings.ScalingSettings``.

Demand is counted in rows: answers that are being decoded or wait for a row. Starting replicas count as
capacity, so a slow start does not request more of them. A replica that has not reported is never removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

REPORT_SECONDS, WINDOW_SECONDS = 1.0, 5.0
"""Interval and window of the replicas' reports; Ray's default of 10 s would dominate the delay."""

STALE_SECONDS = 15.0
"""Older reports are ignored. Ray gives a replica 10 s to report."""

SLACK = 1e-6
"""Tolerance for rounding errors in times and fractions."""


@dataclass(frozen=True)
class ScalingRules:
    """``ScalingSettings`` as plain numbers; documented there."""

    upper: float = 0.8
    lower: float = 0.3
    queue_seconds: float = 2.0
    up_seconds: float = 2.0
    down_seconds: float = 60.0


@dataclass(frozen=True)
class EngineLoad:
    """The load at one moment. Rows and waiting answers are sums over the replicas that reported."""

    target: int
    """The current target, started or not."""
    running: int
    """Replicas that are up."""
    reported: int
    """Replicas that are up and have a fresh report."""
    rows_used: float = 0.0
    rows: float = 0.0
    waiting: float = 0.0
    """Answers that wait for a row at a replica."""
    oldest_waiting_seconds: float = 0.0
    queued: float = 0.0
    """Requests that are not assigned to a replica yet."""
    min_replicas: int = 0
    max_replicas: int = 1

    @property
    def demand(self) -> float:
        """Rows that would be in use if every answer had one."""
        return self.rows_used + self.waiting + self.queued

    @property
    def is_stable(self) -> bool:
        """Whether all replicas of the target are up and have reported."""
        return self.reported >= max(self.target, self.running)


@dataclass(frozen=True)
class PolicyState:
    """State between two decisions; times are on the caller's clock."""

    up_since: float | None = None
    """Since when more replicas have been needed without interruption."""
    down_since: float | None = None
    """Since when one replica has been superfluous without interruption."""
    stable_since: float | None = None
    """Since when all replicas of the target have been up."""
    rows_per_replica: float = 0.0
    """Rows per replica, as last reported; 0 before the first report."""


def decide(load: EngineLoad, state: PolicyState, rules: ScalingRules, now: float) -> tuple[int, PolicyState]:
    """The new target, and the state for the next decision; ``now`` in seconds."""
    state = _update(load, state, now)
    needed = _needed(load, state, rules, now)
    if needed > load.target:
        return _after_delay(_clamp(needed, load), load, state, "up_since", rules.up_seconds, now)
    if _is_superfluous(load, state, rules):
        return _after_delay(load.target - 1, load, state, "down_since", rules.down_seconds, now)
    return _clamp(load.target, load), replace(state, up_since=None, down_since=None)


def _update(load: EngineLoad, state: PolicyState, now: float) -> PolicyState:
    """The state with the current stability and replica size."""
    since = (now if state.stable_since is None else state.stable_since) if load.is_stable else None
    rows = load.rows / load.reported if load.reported and load.rows > 0 else state.rows_per_replica
    return replace(state, stable_since=since, rows_per_replica=rows)


def _needed(load: EngineLoad, state: PolicyState, rules: ScalingRules, now: float) -> int:
    """Replicas that are needed for a row usage below ``upper``, one more than now if the queue is old."""
    by_rows = 0
    if state.rows_per_replica > 0:
        replicas = load.demand / rules.upper / state.rows_per_replica
        by_rows = math.ceil(min(replicas, load.max_replicas) - SLACK)
    by_age = load.target + 1 if _queue_is_old(load, state, rules, now) else 0
    from_zero = 1 if load.demand > 0 else 0
    return min(max(by_rows, by_age, from_zero), load.max_replicas)


def _queue_is_old(load: EngineLoad, state: PolicyState, rules: ScalingRules, now: float) -> bool:
    """Whether a request has waited too long that arrived when all replicas were up.

    An earlier request is already assigned to a replica and cannot move: more replicas would not help it.
    """
    if state.stable_since is None:
        return False
    return rules.queue_seconds < load.oldest_waiting_seconds <= now - state.stable_since + SLACK


def _is_superfluous(load: EngineLoad, state: PolicyState, rules: ScalingRules) -> bool:
    """Whether one replica less would suffice."""
    if not load.is_stable or load.target <= load.min_replicas:
        return False
    if load.demand <= 0 or load.target == 1:
        return load.demand <= 0
    rows, remaining = load.target * state.rows_per_replica, (load.target - 1) * state.rows_per_replica
    return load.demand < rules.lower * rows and load.demand <= rules.upper * remaining


def _after_delay(
    replicas: int, load: EngineLoad, state: PolicyState, since: str, seconds: float, now: float
) -> tuple[int, PolicyState]:
    """The new target once the reason has lasted for ``seconds``; from zero without delay.

    ``since`` names the field of the state with the beginning of the reason.
    """
    began = getattr(state, since)
    began = now if began is None else began
    if now - began + SLACK >= seconds or load.target == 0:
        return _clamp(replicas, load), replace(state, up_since=None, down_since=None)
    pending: dict[str, Any] = {"up_since": None, "down_since": None, since: began}
    return _clamp(load.target, load), replace(state, **pending)


def _clamp(replicas: int, load: EngineLoad) -> int:
    return max(load.min_replicas, min(replicas, load.max_replicas))


class EnginePolicy:
    """Ray Serve's policy for the engine deployment; ``policy_kwargs`` are the fields of ``ScalingRules``.

    Serve adds its own delays, which have to be 0: use ``autoscaling_config``.
    """

    def __init__(self, **rules: float) -> None:
        self.rules = ScalingRules(**rules)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        now = float(context.current_time or 0.0)
        replicas, state = decide(load_of(context, now), state_of(context.policy_state), self.rules, now)
        return replicas, asdict(state)


def autoscaling_config(min_replicas: int, max_replicas: int, rules: Mapping[str, float]) -> dict[str, Any]:
    """The deployment's ``autoscaling_config``: the policy, without Serve's own delays.

    Ray's documentation says that environment variables override ``metrics_interval_s``; Ray 2.60 ignores
    them. Without ``initial_replicas`` a new version of the deployment keeps the replica count of the old one.
    """
    return {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "downscale_to_zero_delay_s": 0.0,
        "metrics_interval_s": REPORT_SECONDS,
        "look_back_period_s": WINDOW_SECONDS,
        "policy": {"policy_function": f"{__name__}:{EnginePolicy.__name__}", "policy_kwargs": dict(rules)},
    }


def state_of(remembered: Mapping[str, Any] | None) -> PolicyState:
    """The state in the mapping that Serve returns, which also holds Serve's own keys."""
    known = {field.name for field in fields(PolicyState)}
    return PolicyState(**{key: value for key, value in (remembered or {}).items() if key in known})


def load_of(context: AutoscalingContext, now: float) -> EngineLoad:
    """The load from the latest reports of running replicas and the requests queued at handles.

    Serve's averages over a window would lag, and would hide the age of the oldest request.
    """
    reports = _fresh_reports(context.raw_metrics or {}, now)
    running = context.current_num_replicas
    queued = context.total_queued_requests if running else context.total_num_requests
    return EngineLoad(
        target=context.target_num_replicas,
        running=running,
        reported=len(reports),
        rows_used=sum(report["rows_used"] for report in reports),
        rows=sum(report["rows"] for report in reports),
        waiting=sum(report["waiting"] for report in reports),
        oldest_waiting_seconds=max((report["oldest_waiting_seconds"] for report in reports), default=0.0),
        queued=max(0.0, queued or 0.0),
        min_replicas=context.capacity_adjusted_min_replicas,
        max_replicas=context.capacity_adjusted_max_replicas,
    )


STATS = ("rows_used", "rows", "waiting", "oldest_waiting_seconds")
"""Keys of an engine replica's ``record_autoscaling_stats``."""


def _fresh_reports(metrics: Mapping[str, Mapping[Any, Any]], now: float) -> list[dict[str, float]]:
    """The latest values of each replica that has all of them fresh."""
    replicas = set.intersection(*(set(metrics.get(name, {})) for name in STATS))
    latest = [{name: metrics[name][replica][-1:] for name in STATS} for replica in replicas]
    fresh = [each for each in latest if all(_is_fresh(point, now) for point in each.values())]
    return [{name: float(point[0].value) for name, point in each.items()} for each in fresh]


def _is_fresh(point: Sequence[Any], now: float) -> bool:
    return bool(point) and now - point[0].timestamp <= STALE_SECONDS
