"""Which refresh interval a request gets: the smallest that load and deadline allow, within its range.

Interval 1 is exact; larger ones are faster and less accurate. Everything here is arithmetic on the host. The
engine's thread runs it between two steps, so it must stay fast for any number of blocks.

Shapes: K blocks of an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lladav.decoding.params import Cache, DecodingOptions

DECAY = 0.95
"""Weight of a measured step relative to the step after it."""
MAX_SLOWDOWN = 4.0
"""A measured step counts as at most this multiple of its estimate: one slow step moves the model little, a
lasting slowdown moves it at every step."""
WARMUP_STEPS = 8
"""Measured steps before ``MAX_SLOWDOWN`` applies."""


@dataclass(frozen=True)
class RefreshRange:
    """Smallest and largest refresh interval that a request may get, within the server's bounds."""

    min: int
    max: int
    follows_load: bool = True
    """Whether load raises the interval. A deadline always does."""


def choose_interval(
    allowed: RefreshRange, load: float, busy: float, seconds_left: float, estimate: Callable[[int], float]
) -> int:
    """The smallest interval that ``load`` allows and whose estimated latency fits into ``seconds_left``.

    ``load`` is the number of running and waiting requests per row, ``busy`` the load at which the largest
    interval is used. ``estimate`` returns the latency of the request at an interval, in seconds. If no
    interval fits, the result is the largest one.
    """
    smallest = interval_for_load(allowed, load, busy) if allowed.follows_load else allowed.min
    return next((r for r in range(smallest, allowed.max + 1) if estimate(r) <= seconds_left), allowed.max)


def interval_for_load(allowed: RefreshRange, load: float, busy: float) -> int:
    """The smallest interval up to load 1, then growing geometrically to the largest at ``busy``."""
    if load >= busy:
        return allowed.max
    if load <= 1:
        return allowed.min
    interval = allowed.min * (allowed.max / allowed.min) ** ((load - 1) / (busy - 1))
    return max(allowed.min, min(round(interval), allowed.max))


@dataclass(frozen=True)
class RequestCost:
    """Steps of an answer and positions that they forward, for a prompt of ``prompt`` positions.

    Exact for an answer without a stop if steps unmask a quota. If confidence decides, it is an upper bound.
    If ``no_repeat_ngram`` leaves tokens to later steps, it is a lower bound. With an outline it is an
    estimate: fixed tokens take no steps, and choices take further ones. The second forward of guidance is
    not counted, as in ``Decoded.positions``.
    """

    options: DecodingOptions
    prompt: int

    @cached_property
    def steps_K(self) -> np.ndarray:
        """Steps of each block. Infilled positions need no step."""
        options = self.options
        block_size, blocks = options.positions_per_block, range(options.num_blocks)
        infilled = Counter(position // block_size for position in options.infill)
        masks_K = block_size - np.array([infilled[block] for block in blocks])
        if options.quotas is None:
            return masks_K
        return np.searchsorted(np.cumsum([0, *options.quotas]), masks_K)

    @property
    def steps(self) -> int:
        """Steps of all blocks."""
        return int(self.steps_K.sum())

    def positions(self, interval: int | None) -> int:
        """Positions that all steps forward at a refresh interval."""
        options, steps_K = self.options, self.steps_K
        refreshes_K = -(-steps_K // (interval or np.maximum(1, steps_K)))
        if options.cache is Cache.none:
            refreshes_K = steps_K
        answer, block_size = options.answer_positions, options.positions_per_block
        remaining_K = answer - block_size * np.arange(options.num_blocks)
        cached_K = block_size if options.cache is Cache.dual else remaining_K
        refreshed_K = refreshes_K * (self.prompt + answer)
        return int((refreshed_K + (steps_K - refreshes_K) * cached_K).sum())


def latency_estimate(
    model: StepTimeModel, options: DecodingOptions, prompt: int, other_positions: float = 0.0
) -> Callable[[int], float]:
    """A function from refresh interval to the seconds that a request takes once it is admitted.

    ``prompt`` is the number of prompt positions, ``other_positions`` the number of positions that other
    requests forward in each of its steps.
    """
    cost, forwards_per_step = RequestCost(options, prompt), 2 if options.guidance > 0 else 1

    def seconds(interval: int) -> float:
        steps = cost.steps
        own = forwards_per_step * cost.positions(interval)
        return model.seconds(steps, own + steps * other_positions)

    return seconds


class StepTimeModel:
    """Seconds of a step as a line: an overhead and a time per position, fitted to measured steps.

    The fit is least squares with weights that decay with the age of a step. Neither number is negative.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, positions: float, seconds: float) -> None:
        """Add a measured step that forwarded ``positions`` positions of all rows in ``seconds``."""
        if self.steps >= WARMUP_STEPS:
            seconds = min(seconds, MAX_SLOWDOWN * self.seconds(1, positions))
        self.steps += 1
        x, y = positions, seconds
        self._weight, self._x, self._y = DECAY * self._weight + 1, DECAY * self._x + x, DECAY * self._y + y
        self._xx, self._xy = DECAY * self._xx + x * x, DECAY * self._xy + x * y

    def seconds(self, steps: float, positions: float) -> float:
        """Seconds for ``steps`` steps that forward ``positions`` positions in total; 0 before any step."""
        overhead, per_position = self.line
        return steps * overhead + positions * per_position

    @property
    def positions(self) -> float:
        """Mean positions of recent steps."""
        return self._x / self._weight if self._weight else 0.0

    @property
    def line(self) -> tuple[float, float]:
        """Overhead of a step and time per position, in seconds."""
        if self._x <= 0:
            return (self._y / self._weight if self._weight else 0.0), 0.0
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x**2
        if (
            variance <= 1e-9 * mean_x**2
        ):  # steps of equal size cannot separate overhead from time per position
            return 0.0, mean_y / mean_x
        slope = max(0.0, (self._xy / self._weight - mean_x * mean_y) / variance)
        overhead = mean_y - slope * mean_x
        return (overhead, slope) if overhead >= 0 else (0.0, self._xy / self._xx)
