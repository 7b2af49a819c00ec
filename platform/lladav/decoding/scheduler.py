"""Which requests are admitted, and which run in a step: decisions on numbers alone, without torch.

Two rules make it fair. Requests are admitted in the order in which they arrive: while the next one does not
fit, no other overtakes it. Cached steps are short and always run; refreshes share ``refresh_positions`` per
step, the one that has waited longest first, and one always runs, however long it is. So a request waits for
at most as many steps as there are requests before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class RunningRequest:
    """A running request: what its next step forwards, and since which step it waits."""

    id: str
    positions: int
    refresh: bool
    waiting_since: int


class Scheduler:
    """The queue of waiting requests, and the next steps of running ones."""

    def __init__(self, max_rows: int, refresh_positions: int) -> None:
        self._max_rows = max_rows
        self._refresh_positions = refresh_positions
        self._waiting: deque[str] = deque()
        self._running: dict[str, RunningRequest] = {}
        self._clock = 0

    @property
    def waiting(self) -> list[str]:
        """Requests that are not admitted yet, the next one first."""
        return list(self._waiting)

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def add(self, request: str) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def remove(self, request: str) -> None:
        """Remove a request, whether it waits or runs; unknown ids are ignored."""
        self._running.pop(request, None)
        self._waiting = deque(each for each in self._waiting if each != request)

    def admit(self, start: Callable[[str], bool]) -> None:
        """Start waiting requests in order; ``start`` returns whether the request fits."""
        while self._waiting and len(self._running) < self._max_rows:
            request = self._waiting[0]
            if not start(request):
                return
            self._waiting.popleft()

    def set_next_step(self, request: str, positions: int, refresh: bool) -> None:
        """Mark a request as running; its next step forwards ``positions`` positions."""
        self._running[request] = RunningRequest(request, positions, refresh, self._clock)

    def schedule(self) -> list[str]:
        """The requests of the next step: all cached ones, then refreshes within the budget."""
        self._clock += 1
        requests = list(self._running.values())
        scheduled = [each.id for each in requests if not each.refresh]
        refreshes = sorted((each for each in requests if each.refresh), key=lambda each: each.waiting_since)
        positions_left = self._refresh_positions
        for number, each in enumerate(refreshes):
            if number > 0 and each.positions > positions_left:
                break
            scheduled.append(each.id)
            positions_left -= each.positions
        return scheduled
