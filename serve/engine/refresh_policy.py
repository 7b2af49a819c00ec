"""Which refresh interval a request gets: as small as load and deadline allow, within what it permits.

1 is exact, more is faster and less faithful. Load counts only where the request gives a range. Everything
here is arithmetic on the host, without torch; the engine's thread does it between two steps, so nothing may
take long however many blocks there are.

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
"""What a step counts for after one more step."""

MAX_SLOWDOWN = 4.0
"""A step counts as at most so many times what was expected: a hiccup moves the estimate little, a lasting
slow-down moves it at every step."""

WARMUP_STEPS = 8
"""Steps after which there is something to expect."""


@dataclass(frozen=True)
class RefreshRange:
    """Smallest and largest refresh interval that a request may get, clipped to the operator's bounds."""

    min: int
    max: int
    follows_load: bool = True
    """Whether load raises the interval, as in a range that the request gives; a deadline raises it always."""


def choose_interval(
    dial: RefreshRange,
    load: float,
    busy: float,
    seconds_left: float,
    estimate: Callable[[int], float],
) -> int:
    """The smallest interval that ``load`` allows and whose forecast fits in ``seconds_left``.

    ``load`` is the number of running and waiting requests per row; ``estimate`` returns the seconds of the
    request at an interval. Where no interval fits, the result is the largest one.
    """
    least = interval_for_load(dial, load, busy) if dial.follows_load else dial.min
    return next((r for r in range(least, dial.max + 1) if estimate(r) <= seconds_left), dial.max)


def interval_for_load(dial: RefreshRange, load: float, busy: float) -> int:
    """From the smallest interval while rows are free, geometrically to the largest at ``busy``."""
    if load >= busy:
        return dial.max
    if load <= 1:
        return dial.min
    interval = dial.min * (dial.max / dial.min) ** ((load - 1) / (busy - 1))
    return max(dial.min, min(round(interval), dial.max))


@dataclass(frozen=True)
class RequestCost:
    """What an answer behind ``prompt`` positions forwards; exact without a stop where steps reveal a quota.

    Where confidence decides, at most so many steps are taken. A second stream of guidance is not counted, as
    ``Decoded.positions`` does not.
    """

    options: DecodingOptions
    prompt: int

    @cached_property
    def steps_K(self) -> np.ndarray:
        """Steps of each block; infilled places need none."""
        options = self.options
        given = Counter(place // options.positions_per_block for place in options.infill)
        masks_K = options.positions_per_block - np.array(
            [given[block] for block in range(options.num_blocks)]
        )
        if options.quotas is None:
            return masks_K
        return np.searchsorted(np.cumsum([0, *options.quotas]), masks_K)

    @property
    def forwards(self) -> int:
        """Steps in all."""
        return int(self.steps_K.sum())

    def positions(self, interval: int | None) -> int:
        """Positions of all steps at a refresh interval."""
        options, steps_K = self.options, self.steps_K
        refreshes_K = -(-steps_K // (interval or np.maximum(1, steps_K)))
        if options.cache is Cache.none:
            refreshes_K = steps_K
        behind_K = options.answer_positions - options.positions_per_block * np.arange(options.num_blocks)
        cached_K = options.positions_per_block if options.cache is Cache.dual else behind_K
        refreshed_K = refreshes_K * (self.prompt + options.answer_positions)
        return int((refreshed_K + (steps_K - refreshes_K) * cached_K).sum())


def latency_estimate(
    pace: StepTimeModel, options: DecodingOptions, prompt: int, company: float = 0.0
) -> Callable[[int], float]:
    """The seconds of a request at an interval, its waiting left out.

    ``company`` is the positions that the other rows forward at each of its steps.
    """
    cost, streams = RequestCost(options, prompt), 2 if options.guidance > 0 else 1

    def seconds(interval: int) -> float:
        steps = cost.forwards
        return pace.seconds(steps, streams * cost.positions(interval) + steps * company)

    return seconds


class StepTimeModel:
    """Seconds that a step takes besides its positions, and seconds of a position, learnt from steps.

    A least-squares line through steps that count less the older they are; neither number is negative.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, positions: float, seconds: float) -> None:
        """Learn from a step that forwarded so many positions, of all rows, in so many seconds."""
        if self.steps >= WARMUP_STEPS:
            seconds = min(seconds, MAX_SLOWDOWN * self.seconds(1, positions))
        self.steps += 1
        x, y = positions, seconds
        self._weight, self._x, self._y = DECAY * self._weight + 1, DECAY * self._x + x, DECAY * self._y + y
        self._xx, self._xy = DECAY * self._xx + x * x, DECAY * self._xy + x * y

    def seconds(self, steps: float, positions: float) -> float:
        """What so many steps that forward so many positions together take; 0 before the first step."""
        overhead, each = self.line
        return steps * overhead + positions * each

    @property
    def positions(self) -> float:
        """Positions of a step lately."""
        return self._x / self._weight if self._weight else 0.0

    @property
    def line(self) -> tuple[float, float]:
        """Seconds of a step besides its positions, and of a position."""
        if self._x <= 0:
            return (self._y / self._weight if self._weight else 0.0), 0.0
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x**2
        if variance <= 1e-9 * mean_x**2:  # steps of one size tell nothing else
            return 0.0, mean_y / mean_x
        slope = max(0.0, (self._xy / self._weight - mean_x * mean_y) / variance)
        overhead = mean_y - slope * mean_x
        return (overhead, slope) if overhead >= 0 else (0.0, self._xy / self._xx)
