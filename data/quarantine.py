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

from lladav.errors import UserError


@dataclass(frozen=True)
class Reject:
    """A sample left out: its source, its own id, where it lies, and why."""

    source: str
    sample: str
    record: str
    where: str
    reason: str
    detail: str

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


def check_budget(reasons: Mapping[str, int], records: int, budget: float, file: Path) -> None:
    """Raise ``UserError`` where more than a fraction ``budget`` of the records were left out."""
    total = sum(reasons.values())
    if total > budget * records:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise UserError(
            f"{total} of {records} records cannot be used ({told}); see {file} and mend them, "
            f"or allow more with data.bad_sample_budget (now {budget})"
        )


class Quarantine:
    """Samples that failed while a run was reading them, one file per rank in a folder all ranks share.

    ``known`` counts by reason what the manifest left out already.
    """

    def __init__(
        self, folder: Path, rank: int, known: Mapping[str, int], records: int, budget: float
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file = folder, folder / f"quarantine-{rank}.jsonl"
        self._known, self._records, self._budget = Counter(known), records, budget
        self._mend()

    def add(self, rejects: Iterable[Reject]) -> None:
        """Put samples on file; raises ``UserError`` when all ranks' are more than the budget allows."""
        on_file = self._on_file()
        new = [reject for reject in rejects if reject.sample not in on_file]
        if not new:
            return
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write("".join(reject.to_line() for reject in new))
        reasons = self._known + Counter(on_file.values()) + Counter(reject.reason for reject in new)
        check_budget(reasons, self._records, self._budget, self._file)

    def _on_file(self) -> dict[str, str]:
        files = sorted(self._folder.glob("quarantine-*.jsonl"))
        return {reject.sample: reject.reason for file in files for reject in read_rejects(file)}

    def _mend(self) -> None:
        """Take away a line that a crash cut short, so that the next one starts afresh."""
        if self._file.is_file():
            write_rejects(self._file, read_rejects(self._file))
