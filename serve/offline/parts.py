"""Collects results and commits them as parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serve.offline.output import OutputFolder, RowCounts
from serve.offline.results import FAILED, ROW, TOKENS, ResultForm, lines_of
from serve.offline.settings import BatchSettings, OutputFormat

PART_BYTES = 2**27
"""Bytes of results in memory after which a part ends."""


class PartWriter:
    """Writes each row once: Ray may repeat a block whose actor was lost."""

    def __init__(
        self,
        folder: OutputFolder,
        form: ResultForm,
        settings: BatchSettings,
        output: OutputFormat,
        done: np.ndarray,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``done`` marks the rows that are in a part (bool array); the writer extends it."""
        self._folder, self._form, self._output, self._clock = folder, form, output, clock
        self._rows, self._seconds = settings.part_rows, settings.part_seconds
        self.done = done
        self._tables: list[pa.Table] = []
        self._opened_at = clock()

    def add(self, table: pa.Table) -> RowCounts:
        """Take results and commit a part when it is due; returns the counts of the rows that are new."""
        rows = table[ROW].to_numpy()
        table = table.filter(pa.array(~self.done[rows]))
        if not self._tables:
            self._opened_at = self._clock()
        self.done[rows] = True
        if table.num_rows:
            self._tables.append(table)
        if self._is_due():
            self.commit()
        return counts_of(table)

    def commit(self) -> None:
        """Commit the rows that are not in a part yet."""
        tables, self._tables = self._tables, []
        if tables:
            self._commit(pa.concat_tables(tables))

    def _is_due(self) -> bool:
        waited = self._clock() - self._opened_at
        rows, size = (sum(getattr(each, name) for each in self._tables) for name in ("num_rows", "nbytes"))
        return rows >= self._rows or size >= PART_BYTES or (rows > 0 and waited >= self._seconds)

    def _commit(self, table: pa.Table) -> None:
        written = self._form.output(table)

        def write(file: Path) -> None:
            if self._output is OutputFormat.parquet:
                pq.write_table(written, file)
                return
            with file.open("w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in lines_of(written))

        suffix = "parquet" if self._output is OutputFormat.parquet else "jsonl"
        self._folder.commit(table[ROW].to_pylist(), counts_of(table), suffix, write)


def counts_of(table: pa.Table) -> RowCounts:
    """The counts of some results."""
    failed, tokens = (int(table[name].to_numpy().sum()) for name in (FAILED, TOKENS))
    return RowCounts(table.num_rows, failed, tokens)
