"""The log of a run: one JSON line per step, and the same numbers for TensorBoard.

After a restart the steps since the last checkpoint are repeated. Their old lines are removed first, so the
log has every step once.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from upath import UPath

from lladav.storage import exists, local_path, location, read_text, upload, write_durably

LOG = "metrics.jsonl"
BOARD = "tensorboard"


class StepLog:
    """Writes the log; used by rank 0 only.

    The log of a remote run is written locally and uploaded with each checkpoint.
    """

    def __init__(self, run_folder: UPath, first_step: int) -> None:
        """``first_step``: steps that are committed; later ones are removed from the log."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import; readers of the log do not need it

        self._run_folder = run_folder
        local = local_path(run_folder)
        self._scratch = None if local else tempfile.TemporaryDirectory()
        self._folder = local or Path(self._scratch.name if self._scratch else "")
        if self._scratch and exists(run_folder / LOG):
            (self._folder / LOG).write_text(read_text(run_folder / LOG), encoding="utf-8")
        rows = [row for row in read_steps(self._folder / LOG) if row["step"] <= first_step]
        write_durably(location(self._folder / LOG), "".join(json.dumps(row) + "\n" for row in rows))
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
            if kind is None:  # otherwise the error that ends the run is the one to report
                raise
        if self._scratch:
            self._scratch.cleanup()

    def write(self, row: dict[str, Any]) -> None:
        """Append a step's row. A None is null in JSON and left out of TensorBoard."""
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, row["step"])

    def upload(self) -> None:
        """Upload the log of a remote run."""
        if self._scratch:
            upload(self._folder, self._run_folder)


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
