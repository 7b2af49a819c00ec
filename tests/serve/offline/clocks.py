"""A clock for tests."""

from __future__ import annotations


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
