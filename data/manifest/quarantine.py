"""The record of what was left out, one JSON line each, and the budget that it counts against.

Lines are appended by whoever consumes a sample's place in the plan. After a crash the same places are
consumed again: a sample that is on file is not written twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
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

LONGEST_FIELD = 500
"""Characters of an id or a detail that are kept: both can come from the record itself."""


@dataclass(frozen=True)
class Reject:
    """A sample left out: its source, its own id, where it lies, and why."""

    source: str
    sample: str
    record: str
    where: str
    reason: str
    detail: str

    @classmethod
    def of(cls, source: str, sample: str, record: str, where: str, bad: BadSample) -> Reject:
        """The line of the quarantine file for this sample; long texts are cut."""
        record, detail = record[:LONGEST_FIELD], bad.detail[:LONGEST_FIELD]
        return cls(source, sample, record, where, bad.reason.value, detail)

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Reject:
        return cls(**json.loads(line))


def read_rejects(file: AnyPath) -> list[Reject]:
    """What a quarantine file holds; a last line that a crash cut short is left out."""
    try:
        lines = read_text(file).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [Reject.from_line(line) for line in lines if line.endswith("\n")]


def over_budget(reasons: Mapping[str, int], records: int, budget: float, place: AnyPath) -> str | None:
    """What to tell the user where more than a fraction ``budget`` of the records were left out."""
    total = sum(reasons.values())
    if total <= budget * records:
        return None
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return (
        f"{total} of {records} records cannot be used ({told}); see {place} and mend them, "
        f"or allow more with data.bad_sample_budget (now {budget})"
    )


class Quarantine:
    """Samples that failed while a run was reading them, one file per rank in the run's folder.

    ``known`` counts by reason what the manifest left out already, of ``records`` in all. Leaving the context
    saves what is new, also where an exception ends the run.
    """

    def __init__(self, folder: str | Path | UPath, rank: int, known: Mapping[str, int], records: int) -> None:
        self._folder = location(folder)
        make_folder(self._folder)
        self._file = self._folder / f"quarantine-{rank}.jsonl"
        self._known, self._records = Counter(known), records
        self._own, self._saved = read_rejects(self._file), True
        names = [name for name in files_in(self._folder) if fnmatch(name, "quarantine-*.jsonl")]
        self.found = {r.sample: r.reason for name in names for r in read_rejects(self._folder / name)}
        """Reasons by sample: of all ranks until this run of the workers began, of this rank since."""
        self._truncate()

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.save()
        except OSError:
            if kind is None:  # else the error that ends the run is the one to report
                raise

    def add(self, rejects: Iterable[Reject]) -> None:
        """Put samples on file, unless they are there; in an object store they are with the next ``save``."""
        new = [reject for reject in rejects if reject.sample not in self.found]
        if not new:
            return
        self._own += new
        self.found |= {reject.sample: reject.reason for reject in new}
        if local := local_path(self._file):
            with local.open("a", encoding="utf-8") as stream:
                stream.write(_text(new))
        else:
            self._saved = False

    def save(self) -> None:
        """Write what is new to an object store; local files have it already."""
        if not self._saved:
            write_durably(self._file, _text(self._own))
            self._saved = True

    def over_budget(self, budget: float, found: Iterable[Mapping[str, str]] = ()) -> str | None:
        """What to report where all that was left out is more than the budget allows.

        ``found`` are those of all ranks.
        """
        merged = dict(self.found)
        for each in found:
            merged |= each
        reasons = self._known + Counter(merged.values())
        return over_budget(reasons, self._records, budget, self._folder)

    def _truncate(self) -> None:
        """Remove a line that a crash cut short, so that the next one starts on a line of its own."""
        if local_path(self._file) and exists(self._file):
            write_durably(self._file, _text(self._own))


def _text(rejects: Iterable[Reject]) -> str:
    return "".join(reject.to_line() for reject in rejects)
