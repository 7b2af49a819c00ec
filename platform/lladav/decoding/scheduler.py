"""Which requests are admitted and which run in a step: decisions on numbers alone, without torch.

Fairness, in two rules. Requests are admitted in the order they came: one that does not fit now is waited for,
and nothing overtakes it. Cached steps are short and always run; refreshes share ``refresh_positions`` a step,
the one that has waited longest first, and one always runs however long it is. So a row waits for at most as
many steps as there are rows before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Turn:
    """A running request: what its next step costs, and since when it waits for it."""

    id: str
    positions: int
    refresh: bool
    waiting_since: int


class Scheduler:
    """Requests that wait, in order, and the turns of those that run."""

    def __init__(self, max_rows: int, refresh_positions: int) -> None:
        self._max_rows = max_rows
        self._refresh_positions = refresh_positions
        self._waiting: deque[str] = deque()
        self._running: dict[str, Turn] = {}
        self._clock = 0

    @property
    def waiting(self) -> list[str]:
        """Requests that are not admitted yet, the next one first."""
        return list(self._waiting)

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def add(self, request: str) -> None:
        self._waiting.append(request)

    def drop(self, request: str) -> None:
        """Forget a request, wherever it is."""
        self._running.pop(request, None)
        self._waiting = deque(each for each in self._waiting if each != request)

    def admit(self, start: Callable[[str], bool]) -> None:
        """Start waiting requests in order until one does not fit; ``start`` says whether one did."""
        while self._waiting and len(self._running) < self._max_rows:
            request = self._waiting[0]
            if not start(request):
                return
            self._waiting.popleft()

    def due(self, request: str, positions: int, refresh: bool) -> None:
        """The request runs, and its next step forwards so many positions."""
        self._running[request] = Turn(request, positions, refresh, self._clock)

    def choose(self) -> list[str]:
        """The requests of the next step."""
        self._clock += 1
        turns = list(self._running.values())
        chosen = [turn.id for turn in turns if not turn.refresh]
        left, first = self._refresh_positions, True
        for turn in sorted((t for t in turns if t.refresh), key=lambda turn: turn.waiting_since):
            if not first and turn.positions > left:
                break
            chosen.append(turn.id)
            left, first = left - turn.positions, False
        return chosen
