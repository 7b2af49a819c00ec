"""Waiting for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 240.0
"""Seconds after which a wait fails; long, because a busy machine delays everything."""


def wait_for(
    found: Callable[[], T | None], what: Callable[[], object] | str = "the condition", pause: float = 0.05
) -> T:
    """Call ``found`` until its result is true, and return the result.

    ``what`` says what does not happen, or is a function that returns it. ``pause`` is in seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not (result := found()):
        assert time.monotonic() < deadline, f"did not happen: {what() if callable(what) else what}"
        time.sleep(pause)
    return result
