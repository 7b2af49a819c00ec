"""Progress of a run on the terminal: one line every few seconds.

The driver reads the run's log file, so the lines have no prefix of a Ray worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lladav.terminal import format_seconds
from train.trainer.step_log import LOG, read_steps

INTERVAL_SECONDS = 2.0


@contextmanager
def repeating(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``action`` in a thread, every few seconds while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Progress:
    """Prints the newest step of a run every few seconds while the block runs."""

    def __init__(self, folder: Path | None, stage: str, first_step: int, total_steps: int) -> None:
        """``folder`` is the run's local folder; None, for a remote run, prints nothing."""
        self._file = folder / LOG if folder else None
        self._stage, self._total = stage, total_steps
        self._shown = first_step
        self._recent: list[tuple[float, int]] = []
        self._repeating = repeating(self._show, INTERVAL_SECONDS)

    def __enter__(self) -> Progress:
        self._repeating.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._repeating.__exit__(kind, error, trace)
        self._show()

    def _show(self) -> None:
        rows = read_steps(self._file) if self._file else []
        if rows and rows[-1]["step"] != self._shown:
            for row in rows:
                if row["step"] > self._shown and "validation_loss" in row:
                    print(validation_line(self._stage, row, self._total), flush=True)
            self._shown = rows[-1]["step"]
            self._recent = [*self._recent[-30:], (time.monotonic(), self._shown)]
            print(step_line(self._stage, rows[-1], self._total, self._seconds_per_step(rows)), flush=True)

    def _seconds_per_step(self, rows: list[dict[str, Any]]) -> float:
        (begin, first), (end, last) = self._recent[0], self._recent[-1]
        return (end - begin) / (last - first) if last > first else rows[-1]["seconds"]


def validation_line(stage: str, row: dict[str, Any], total_steps: int) -> str:
    """The validation in a row of the log as a line for the terminal."""
    return (
        f"{stage:<8} step {row['step']:>{len(str(total_steps))}}/{total_steps}"
        f"  validation loss {row['validation_loss']:6.4f} nats/token"
        f"  {row['validation_samples']} samples in {format_seconds(row['validation_seconds'])}"
    )


def step_line(stage: str, row: dict[str, Any], total_steps: int, seconds_per_step: float) -> str:
    """A row of the log as a line for the terminal."""
    left = seconds_per_step * (total_steps - row["step"])
    answer = row["loss_answer"]
    return (
        f"{stage:<8} step {row['step']:>{len(str(total_steps))}}/{total_steps}"
        f"  loss {row['loss']:6.3f}"
        f"  answer tokens {f'{answer:6.3f}' if answer is not None else '     -'}"
        f"  {row['samples_per_second']:6.1f} samples/s"
        f"  {row['text_tokens_per_second'] + row['visual_tokens_per_second']:7.0f} tokens/s"
        f"  ETA {format_seconds(left)}"
    )


def report(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)
