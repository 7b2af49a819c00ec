"""The record of what was left out, one JSON line each, and the budget that it counts against.

Lines are appended by whoever consumes a sample's place in the plan. After a crash the same places are
consumed again: a sample that is on file is not written twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data.records import BadSample

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
        """What goes on file of a bad sample; long texts are cut."""
        record, detail = record[:LONGEST_FIELD], bad.detail[:LONGEST_FIELD]
        return cls(source, sample, record, where, bad.reason.value, detail)

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Reject:
        return cls(**json.loads(line))


def write_rejects(file: Path, rejects: Iterable[Reject]) -> None:
    """Write a new quarantine file."""
    file.write_text("".join(reject.to_line() for reject in rejects), encoding="utf-8")


def read_rejects(file: Path) -> list[Reject]:
    """What a quarantine file holds; a last line that a crash cut short is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Reject.from_line(line) for line in lines if line.endswith("\n")]


def over_budget(reasons: Mapping[str, int], records: int, budget: float, place: Path) -> str | None:
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
    """Samples that failed while a run was reading them, one file per rank in a folder that all ranks share.

    ``known`` counts by reason what the manifest left out already, of ``records`` in all.
    """

    def __init__(self, folder: Path, rank: int, known: Mapping[str, int], records: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file = folder, folder / f"quarantine-{rank}.jsonl"
        self._known, self._records = Counter(known), records
        self._mend()

    def add(self, rejects: Iterable[Reject]) -> None:
        """Put samples on file, unless they are there."""
        rejects = list(rejects)
        on_file = self._on_file() if rejects else {}
        new = [reject for reject in rejects if reject.sample not in on_file]
        if new:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("".join(reject.to_line() for reject in new))

    def over_budget(self, budget: float) -> str | None:
        """What to tell the user where all that was left out, by any rank, is more than the budget allows."""
        reasons = self._known + Counter(self._on_file().values())
        return over_budget(reasons, self._records, budget, self._folder)

    def _on_file(self) -> dict[str, str]:
        files = sorted(self._folder.glob("quarantine-*.jsonl"))
        return {reject.sample: reject.reason for file in files for reject in read_rejects(file)}

    def _mend(self) -> None:
        """Take away a line that a crash cut short, so that the next one starts afresh."""
        if self._file.is_file():
            write_rejects(self._file, read_rejects(self._file))
