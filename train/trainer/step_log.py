"""The log of a run: one JSON line a step, and the same numbers for TensorBoard.

After a restart the steps behind the last checkpoint are done again; their earlier lines are dropped first, so
every step stands in the log once.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from upath import UPath

from lladav.storage import exists, local_path, location, read_text, upload, write_durably

LOG = "metrics.jsonl"
BOARD = "tensorboard"


class StepLog:
    """Writes on one rank; a remote run's log is kept locally and uploaded with each checkpoint."""

    def __init__(self, place: UPath, first_step: int) -> None:
        self._place = place
        local = local_path(place)
        self._scratch = None if local else tempfile.TemporaryDirectory()
        self._folder = local or Path(self._scratch.name if self._scratch else "")
        if self._scratch and exists(place / LOG):
            (self._folder / LOG).write_text(read_text(place / LOG), encoding="utf-8")
        keep_steps_before(self._folder / LOG, first_step)
        self._lines = (self._folder / LOG).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self._folder / BOARD), purge_step=first_step + 1)

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()
        try:
            self.upload()
        except OSError:
            if kind is None:  # else the error that ends the run is the one to report
                raise
        if self._scratch:
            self._scratch.cleanup()

    def write(self, row: dict[str, Any]) -> None:
        """Append a step's row; a number that is absent is null in JSON and left out of TensorBoard."""
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, row["step"])

    def upload(self) -> None:
        """Bring a remote run's log up to date."""
        if self._scratch:
            upload(self._folder, self._place)


def read_steps(file: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line cut off by a crash is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def keep_steps_before(file: Path, first_step: int) -> None:
    """Drop the rows that will be written again."""
    rows = [row for row in read_steps(file) if row["step"] <= first_step]
    write_durably(location(file), "".join(json.dumps(row) + "\n" for row in rows))
