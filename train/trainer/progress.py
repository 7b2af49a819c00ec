"""What a person sees while a run works: one line every few seconds, read from the run's own log.

The driver follows the file, so the lines come without a worker's prefix and say the same as the log.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from train.trainer.step_log import LOG, read_steps

INTERVAL_SECONDS = 2.0


class Progress:
    """Prints the newest step of a run every few seconds until it is left."""

    def __init__(self, folder: Path | None, stage: str, first_step: int, total_steps: int) -> None:
        """``folder`` is the run's; nothing is shown where it is not local."""
        self._file = folder / LOG if folder else None
        self._stage, self._total = stage, total_steps
        self._shown = first_step
        self._recent: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._show()

    def _follow(self) -> None:
        while not self._over.wait(INTERVAL_SECONDS):
            self._show()

    def _show(self) -> None:
        rows = read_steps(self._file) if self._file else []
        if rows and rows[-1]["step"] != self._shown:
            self._shown = rows[-1]["step"]
            self._recent = [*self._recent[-30:], (time.monotonic(), self._shown)]
            print(step_line(self._stage, rows[-1], self._total, self._seconds_per_step(rows)), flush=True)

    def _seconds_per_step(self, rows: list[dict[str, Any]]) -> float:
        (begin, first), (end, last) = self._recent[0], self._recent[-1]
        return (end - begin) / (last - first) if last > first else rows[-1]["seconds"]


def step_line(stage: str, row: dict[str, Any], total_steps: int, seconds_per_step: float) -> str:
    """One step for a person: where it is, its loss, its speed, the time left."""
    left = seconds_per_step * (total_steps - row["step"])
    answer = row["loss_answer"]
    return (
        f"{stage:<8} step {row['step']:>{len(str(total_steps))}}/{total_steps}"
        f"  loss {row['loss']:6.3f}"
        f"  answer tokens {f'{answer:6.3f}' if answer is not None else '     -'}"
        f"  {row['samples_per_second']:6.1f} samples/s"
        f"  {row['text_tokens_per_second'] + row['visual_tokens_per_second']:7.0f} tokens/s"
        f"  ETA {clock(left)}"
    )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str) -> None:
    """A line of the run's story."""
    print(text, flush=True)


def fail(text: str) -> None:
    """The one line that tells why a run ended."""
    print(f"error: {text}", file=sys.stderr, flush=True)
