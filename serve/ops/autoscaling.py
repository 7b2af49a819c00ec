"""How many engine replicas there should be: a pure rule, and its form as a policy of Ray Serve.

The policy travels to Serve's controller by value, and the controller may not find this project: nothing but
the standard library is imported here; ``ScalingRules`` holds what ``serve.settings.ScalingSettings`` says.

Demand is counted in rows: answers that are decoded or wait for it. Replicas that are starting count as if
they were there, so a slow start asks for no more of them; one that has not reported yet is never spare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

REPORT_SECONDS, WINDOW_SECONDS = 1.0, 5.0
"""Between the reports of a replica, and how far back they go; Ray's 10 s would be most of the delay."""

STALE_SECONDS = 15.0
"""A report older than this tells nothing; Ray gives a replica 10 s to come up with one."""

SLACK = 1e-6
"""Against the last bits of differences between times, and of shares."""


@dataclass(frozen=True)
class ScalingRules:
    """``ScalingSettings`` as plain numbers; see there for what each is."""

    upper: float = 0.8
    lower: float = 0.3
    queue_seconds: float = 2.0
    up_seconds: float = 2.0
    down_seconds: float = 60.0


@dataclass(frozen=True)
class EngineLoad:
    """What is known at a moment; rows and waiting answers are those of the replicas that reported."""

    target: int
    """Replicas that are wanted so far, started or not."""
    running: int
    """Replicas that are up."""
    reported: int
    """Replicas that are up and whose report is fresh."""
    rows_used: float = 0.0
    rows: float = 0.0
    waiting: float = 0.0
    """Answers that wait at a replica."""
    oldest_waiting_seconds: float = 0.0
    queued: float = 0.0
    """Requests that no replica has taken yet."""
    min_replicas: int = 0
    max_replicas: int = 1

    @property
    def demand(self) -> float:
        """Rows that would be in use if there were enough."""
        return self.rows_used + self.waiting + self.queued

    @property
    def settled(self) -> bool:
        """Whether every wanted replica is up and has reported."""
        return self.reported >= max(self.target, self.running)


@dataclass(frozen=True)
class State:
    """What is remembered between decisions; times as the caller counts them."""

    up_since: float | None = None
    """Since when more replicas are needed without a break."""
    down_since: float | None = None
    """Since when one is spare without a break."""
    settled_since: float | None = None
    """Since when all wanted replicas are there."""
    rows_each: float = 0.0
    """Rows of a replica, as last reported; 0 before the first report."""


def decide(load: EngineLoad, state: State, rules: ScalingRules, now: float) -> tuple[int, State]:
    """The number of replicas to have, and what to remember for the next decision."""
    state = _noted(load, state, now)
    wanted = _needed(load, state, rules, now)
    if wanted > load.target:
        return _after(_bounded(wanted, load), load, state, "up_since", rules.up_seconds, now)
    if _spare(load, state, rules):
        return _after(load.target - 1, load, state, "down_since", rules.down_seconds, now)
    return _bounded(load.target, load), replace(state, up_since=None, down_since=None)


def _noted(load: EngineLoad, state: State, now: float) -> State:
    """The state with what this moment tells about replicas."""
    since = (now if state.settled_since is None else state.settled_since) if load.settled else None
    each = load.rows / load.reported if load.reported and load.rows > 0 else state.rows_each
    return replace(state, settled_since=since, rows_each=each)


def _needed(load: EngineLoad, state: State, rules: ScalingRules, now: float) -> int:
    """Replicas that bring the share of used rows below ``upper`` and the age of the queue down."""
    by_rows = 0
    if state.rows_each > 0:
        full = load.demand / rules.upper / state.rows_each
        by_rows = math.ceil(min(full, load.max_replicas) - SLACK)
    by_age = load.target + 1 if _queue_is_old(load, state, rules, now) else 0
    from_nothing = 1 if load.demand > 0 else 0
    return min(max(by_rows, by_age, from_nothing), load.max_replicas)


def _queue_is_old(load: EngineLoad, state: State, rules: ScalingRules, now: float) -> bool:
    """Whether a request waits too long that came when all wanted replicas were there.

    One that came earlier waits at a replica that it cannot leave: more replicas would not help it.
    """
    if state.settled_since is None:
        return False
    return rules.queue_seconds < load.oldest_waiting_seconds <= now - state.settled_since + SLACK


def _spare(load: EngineLoad, state: State, rules: ScalingRules) -> bool:
    """Whether one replica less would do."""
    if not load.settled or load.target <= load.min_replicas:
        return False
    if load.demand <= 0 or load.target == 1:
        return load.demand <= 0
    rows, rest = load.target * state.rows_each, (load.target - 1) * state.rows_each
    return load.demand < rules.lower * rows and load.demand <= rules.upper * rest


def _after(
    wanted: int, load: EngineLoad, state: State, since: str, seconds: float, now: float
) -> tuple[int, State]:
    """``wanted`` once the reason has lasted; from nothing to something at once."""
    began = getattr(state, since)
    began = now if began is None else began
    if now - began + SLACK >= seconds or load.target == 0:
        return _bounded(wanted, load), replace(state, up_since=None, down_since=None)
    waiting: dict[str, Any] = {"up_since": None, "down_since": None, since: began}
    return _bounded(load.target, load), replace(state, **waiting)


def _bounded(replicas: int, load: EngineLoad) -> int:
    return max(load.min_replicas, min(replicas, load.max_replicas))


class EnginePolicy:
    """Ray Serve's policy of the engine deployment; ``policy_kwargs`` are the fields of ``ScalingRules``.

    Serve's own delays have to be 0 in the deployment's ``autoscaling_config``: it applies them on top. See
    ``autoscaling_config``.
    """

    def __init__(self, **rules: float) -> None:
        self.rules = ScalingRules(**rules)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        now = float(context.current_time or 0.0)
        replicas, state = decide(load_of(context, now), state_of(context.policy_state), self.rules, now)
        return replicas, asdict(state)


def autoscaling_config(min_replicas: int, max_replicas: int, rules: Mapping[str, float]) -> dict[str, Any]:
    """The deployment's ``autoscaling_config``: the policy, and no delays besides its own.

    ``metrics_interval_s`` is said to give way to variables of the environment, which Ray 2.60 does not read.
    Without ``initial_replicas`` a new version of the deployment keeps the number of the old one.
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


def state_of(remembered: Mapping[str, Any] | None) -> State:
    """The state in what Serve gives back, which holds keys of its own, too."""
    known = {field.name for field in fields(State)}
    return State(**{key: value for key, value in (remembered or {}).items() if key in known})


def load_of(context: AutoscalingContext, now: float) -> EngineLoad:
    """The latest reports of the running replicas, and the requests at handles.

    Means over Serve's window would be late, and hide how old the oldest request is.
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
"""What ``record_autoscaling_stats`` of an engine replica gives."""


def _fresh_reports(metrics: Mapping[str, Mapping[Any, Any]], now: float) -> list[dict[str, float]]:
    """The last numbers of each replica that has all of them, none too old."""
    replicas = set.intersection(*(set(metrics.get(name, {})) for name in STATS))
    latest = [{name: metrics[name][replica][-1:] for name in STATS} for replica in replicas]
    fresh = [each for each in latest if all(_is_fresh(point, now) for point in each.values())]
    return [{name: float(point[0].value) for name, point in each.items()} for each in fresh]


def _is_fresh(point: Sequence[Any], now: float) -> bool:
    return bool(point) and now - point[0].timestamp <= STALE_SECONDS
