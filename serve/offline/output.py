"""The output folder: part files, and which rows they hold.

A part is committed in two steps. First ``_batch/part-N.json`` names its rows, then the part itself appears
under its name. A part that is there therefore always has its rows listed, and a list without a part counts
for nothing. Readers of folders of parquet files skip names that begin with ``_``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lladav.config.introspection import format_value
from lladav.errors import UserError
from lladav.storage import (
    as_user_error,
    exists,
    files_in,
    local_path,
    location,
    make_folder,
    read_text,
    remove_file,
    write_durably,
)

PART = re.compile(r"part-(\d+)\.(parquet|jsonl)")
INCOMPLETE = ".part"
"""Ending of files that an interrupted write leaves behind."""
FIX = "check the path and the credentials"
RECORDS, SETTINGS = "_batch", "settings.json"


@dataclass
class RowCounts:
    """Rows, rows with an error, and tokens of answers."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0

    def add(self, other: RowCounts) -> None:
        """Add the counts of other rows."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class OutputFolder:
    """The folder of a batch, at a path or a URI."""

    def __init__(self, text: str) -> None:
        self.path = location(text)
        self._records = self.path / RECORDS
        self._next = 0

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs away from a local folder; raises ``UserError`` if one is there.

        An object store has no locks: there, nothing stops two runs from answering the same rows.
        """
        with as_user_error(f"output={self.path}: cannot be written", FIX):
            make_folder(self._records)
        if (local := local_path(self._records)) is None:
            yield
            return
        try:
            with FileLock(local / "lock", timeout=0):
                yield
        except Timeout:
            raise UserError(f"output={self.path}: another run writes here; wait for it or end it") from None

    def bind(self, settings: dict[str, Any]) -> None:
        """Save the settings that determine the answers; raises ``UserError`` if others are saved already."""
        file = self._records / SETTINGS
        with as_user_error(f"output={self.path}: cannot be used", FIX):
            if exists(file):
                self._check_unchanged(json.loads(read_text(file)), settings)
                return
            if names := [name for name in files_in(self.path) if PART.fullmatch(name)]:
                raise UserError(f"output={self.path}: has {names[0]} of something else; choose a new folder")
            write_durably(file, json.dumps(settings, indent=1))

    def _check_unchanged(self, saved: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
        if changed:
            was, new = (format_value(each.get(changed[0])) for each in (saved, now))
            raise UserError(
                f"output={self.path}: was begun with {changed[0]}={was}, now {new}; "
                "take the old value or another output"
            )

    def committed(self, total: int) -> tuple[np.ndarray, RowCounts]:
        """Which of ``total`` rows are in a part (bool array), and the counts of these rows.

        Removes what an interrupted write has left.
        """
        done, counts = np.zeros(total, dtype=bool), RowCounts()
        with as_user_error(f"output={self.path}: cannot be read", FIX):
            for name in files_in(self.path):
                if name.startswith("part-") and name.endswith(INCOMPLETE):
                    remove_file(self.path / name)
                elif found := PART.fullmatch(name):
                    self._next = max(self._next, int(found[1]) + 1)
                    counts.add(self._read_record(int(found[1]), done))
        return done, counts

    def _read_record(self, number: int, done: np.ndarray) -> RowCounts:
        """Mark the rows of a part; returns their counts."""
        file = self._record(number)
        record = json.loads(read_text(file))
        for first, last in record["rows"]:
            done[first : last + 1] = True
        rows = sum(last + 1 - first for first, last in record["rows"])
        return RowCounts(rows, record["failed"], record["tokens"])

    def commit(
        self, rows: Sequence[int], counts: RowCounts, suffix: str, write: Callable[[Path], None]
    ) -> None:
        """Add a part; ``write`` writes its file to a local path."""
        record = {"rows": ranges(rows), "failed": counts.failed, "tokens": counts.tokens}
        with as_user_error(f"output={self.path}: cannot be written", FIX):
            write_durably(self._record(self._next), json.dumps(record))
            write_durably(self.path / f"part-{self._next:05}.{suffix}", write)
        self._next += 1

    def _record(self, number: int) -> Any:
        return self._records / f"part-{number:05}.json"


def ranges(rows: Sequence[int]) -> list[list[int]]:
    """First and last number of each run of consecutive numbers, in order."""
    found: list[list[int]] = []
    for row in sorted(rows):
        if found and found[-1][1] == row - 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    return found
