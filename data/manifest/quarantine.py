"""Quarantine files: the records that were left out, one JSON line each, and the budget for them.

During training each rank appends the samples that it cannot read. After a crash it reads the same part of the
plan again; a sample that is in the file already is not written twice.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType

from upath import UPath

from data.records.record import BadSample
from lladav.storage import (
    AnyPath,
    exists,
    files_in,
    local_path,
    location,
    make_folder,
    read_text,
    write_durably,
)

LOG = logging.getLogger(__name__)

MAX_FIELD_CHARACTERS = 500
"""An id or a detail is cut to this length: both can come from the record itself."""


@dataclass(frozen=True)
class Reject:
    """A sample that was left out, and why; ``record`` is the record's own id, ``where`` its position."""

    source: str
    sample: str
    record: str
    where: str
    reason: str
    detail: str

    @classmethod
    def of(cls, source: str, sample: str, record: str, where: str, bad: BadSample) -> Reject:
        """The reject for a bad sample; long texts are cut."""
        record, detail = record[:MAX_FIELD_CHARACTERS], bad.detail[:MAX_FIELD_CHARACTERS]
        return cls(source, sample, record, where, bad.reason.value, detail)

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Reject:
        return cls(**json.loads(line))


def read_rejects(file: AnyPath) -> list[Reject]:
    """The rejects in a quarantine file; empty if the file does not exist.

    A last line without its end, which a crash leaves behind, is ignored. Any other line that cannot be parsed
    is skipped and logged: a record of bad samples must not stop the run that it belongs to.
    """
    try:
        lines = read_text(file, errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return list(_parse_lines(file, [line for line in lines if line.endswith("\n")]))


def _parse_lines(file: AnyPath, lines: list[str]) -> Iterator[Reject]:
    for number, line in enumerate(lines, 1):
        try:
            yield Reject.from_line(line)
        except (ValueError, TypeError) as error:
            LOG.warning(
                "%s, line %d: not a quarantined sample (%s); the line is skipped", file, number, error
            )


def over_budget(reasons: Mapping[str, int], records: int, budget: float, place: AnyPath) -> str | None:
    """The error to report if more than the fraction ``budget`` of ``records`` was left out; else None.

    ``reasons`` counts the rejects by reason; ``place`` is their file or folder.
    """
    total = sum(reasons.values())
    if total <= budget * records:
        return None
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return (
        f"{total} of {records} records cannot be used ({counts}); see {place} and fix them, "
        f"or allow more with data.bad_sample_budget (now {budget})"
    )


class Quarantine:
    """The samples that one rank could not read during training, in its own file of the run folder.

    ``known`` counts by reason what the manifest has left out already, and ``records`` all records of the
    stage. Leaving the context saves new rejects, also if an exception ends the run.
    """

    def __init__(self, folder: str | Path | UPath, rank: int, known: Mapping[str, int], records: int) -> None:
        self._folder = location(folder)
        make_folder(self._folder)
        self._file = self._folder / f"quarantine-{rank}.jsonl"
        self._known, self._records = Counter(known), records
        self._own, self._saved = read_rejects(self._file), True
        names = {name for name in files_in(self._folder) if fnmatch(name, "quarantine-*.jsonl")}
        others = (read_rejects(self._folder / name) for name in sorted(names - {self._file.name}))
        self.found = {reject.sample: reject.reason for each in (self._own, *others) for reject in each}
        """Reasons by sample: those of all ranks at the start of these workers, and new ones of this rank."""
        self._remove_unreadable_lines()

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.save()
        except OSError:
            if kind is None:  # otherwise the exception that ends the run is the one to report
                raise

    def add(self, rejects: Iterable[Reject]) -> None:
        """Append rejects that are not in the files yet; an object store receives them with ``save``."""
        new = [reject for reject in rejects if reject.sample not in self.found]
        if not new:
            return
        self._own += new
        self.found |= {reject.sample: reject.reason for reject in new}
        if local := local_path(self._file):
            with local.open("a", encoding="utf-8") as stream:
                stream.write(_to_text(new))
        else:
            self._saved = False

    def save(self) -> None:
        """Write new rejects to an object store; local files have them already."""
        if not self._saved:
            write_durably(self._file, _to_text(self._own))
            self._saved = True

    def over_budget(self, budget: float, found: Iterable[Mapping[str, str]] = ()) -> str | None:
        """The error to report if more was left out than the budget allows; ``found`` is that of all ranks."""
        merged = dict(self.found)
        for each in found:
            merged |= each
        reasons = self._known + Counter(merged.values())
        return over_budget(reasons, self._records, budget, self._folder)

    def _remove_unreadable_lines(self) -> None:
        """Rewrite the file: after a line that a crash cut short, an appended line would be unreadable too."""
        if local_path(self._file) and exists(self._file):
            write_durably(self._file, _to_text(self._own))


def _to_text(rejects: Iterable[Reject]) -> str:
    return "".join(reject.to_line() for reject in rejects)
