"""The log of a run: a JSON line per step, a JSON line per answered validation question, and the trackers.

After a restart the steps since the last checkpoint are repeated. Their old lines are removed first, so the
log has every step once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from upath import UPath

from lladav.storage import exists, local_path, location, read_text, upload, write_durably
from train.trainer.tracking.tracker import IDS, Tracker, ValidationAnswer

LOG = "metrics.jsonl"
ANSWERS = "answers.jsonl"


def no_trackers(folder: Path) -> list[Tracker]:  # noqa: ARG001 - an argument of ``StepLog``
    """No trackers: the log alone."""
    return []


class StepLog:
    """Writes the log; used by rank 0 only.

    The log of a remote run is written locally and uploaded with each checkpoint.
    """

    def __init__(
        self,
        run_folder: UPath,
        first_step: int,
        trackers: Callable[[Path], Sequence[Tracker]] = no_trackers,
    ) -> None:
        """``first_step``: steps that are committed; later ones are removed from the log. ``trackers`` opens
        the trackers of the run, whose local folder is its argument."""
        self._run_folder, self._first_step = run_folder, first_step
        local = local_path(run_folder)
        self._scratch = None if local else tempfile.TemporaryDirectory()
        self._folder = local or Path(self._scratch.name if self._scratch else "")
        if self._scratch:
            self._download()
        self._remove_repeated()
        self._lines = (self._folder / LOG).open("a", encoding="utf-8")
        self._trackers = trackers(self._folder)

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        for tracker in self._trackers:
            tracker.close()
        try:
            self.upload()
        except OSError:
            if kind is None:  # otherwise the error that ends the run is the one to report
                raise
        if self._scratch:
            self._scratch.cleanup()

    def write(self, row: dict[str, Any]) -> None:
        """Append a step's row. A None is null in JSON, and no tracker gets it."""
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        values = row.items()
        numbers = {name: v for name, v in values if isinstance(v, int | float) and name != "step"}
        for tracker in self._trackers:
            tracker.write(row["step"], numbers)

    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        """Append the answers of a validation."""
        with (self._folder / ANSWERS).open("a", encoding="utf-8") as stream:
            for answer in answers:
                row = {"step": step, **answer.row, "correct": answer.is_correct}
                stream.write(json.dumps(row) + "\n")
        for tracker in self._trackers:
            tracker.show(step, answers)

    def upload(self) -> None:
        """Upload the log of a remote run."""
        if self._scratch:
            upload(self._folder, self._run_folder)

    def _download(self) -> None:
        for name in (LOG, ANSWERS, IDS):
            if exists(self._run_folder / name):
                (self._folder / name).write_text(read_text(self._run_folder / name), encoding="utf-8")

    def _remove_repeated(self) -> None:
        """Remove the lines of steps that are not committed, and create the log if it does not exist."""
        for file in (self._folder / LOG, self._folder / ANSWERS):
            rows = [row for row in read_steps(file) if row["step"] <= self._first_step]
            if file.exists() or file.name == LOG:
                write_durably(location(file), "".join(json.dumps(row) + "\n" for row in rows))


def read_steps(file: Path) -> list[dict[str, Any]]:
    """The rows of a log, without a last line that a crash has cut off."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
