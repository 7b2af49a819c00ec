"""Values as text for the terminal."""

from __future__ import annotations

import pytest

from lladav.terminal import format_seconds


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3725, "1:02:05")])
def test_durations_are_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
