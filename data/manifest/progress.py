"""Progress of building a manifest on the terminal: a line every few seconds, and one at the end.

How much is left is known from the bytes of the annotation files: counting their records first would take a
pass of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lladav.terminal import format_seconds

INTERVAL_SECONDS = 2.0

Report = Callable[[str], None]
"""Prints a line."""


class ScanProgress:
    """Counts scanned records and reports them; a build shorter than the interval reports nothing."""

    def __init__(self, report: Report, total_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._total, self._clock = report, total_bytes, clock
        self._begin = self._shown = clock()
        self._records = self._rejects = 0

    def add(self, records: int, rejects: int, read_bytes: int) -> None:
        """Count the records of a chunk, ``rejects`` of them unusable.

        ``read_bytes`` are the bytes of the annotation files up to the end of the chunk.
        """
        self._records, self._rejects = self._records + records, self._rejects + rejects
        if self._clock() - self._shown >= INTERVAL_SECONDS:
            self._shown = self._clock()
            left = (self._shown - self._begin) * (self._total / max(1, read_bytes) - 1)
            self._report(f"{self._line()}  ETA {format_seconds(left)}")

    def finish(self) -> None:
        """Report the end of a build that has reported before."""
        if self._shown > self._begin:
            self._report(f"{self._line()}  took {format_seconds(self._clock() - self._begin)}")

    def _line(self) -> str:
        rate = self._records / max(self._clock() - self._begin, 1e-9)
        return f"manifest {self._records:>10,} records  {rate:7,.0f} records/s  {self._rejects:,} rejected"
