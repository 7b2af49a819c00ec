"""A sample that was left out is in the files once, whatever crashes, and counts against the budget."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from data.manifest.quarantine import Quarantine, Reject, read_rejects
from lladav.storage import location, read_text


def reject(number: int, reason: str = "bad_image") -> Reject:
    return Reject("s", f"s:records.json#{number}", "", f"records.json, byte {number}", reason, "cut short")


def rejects_in(folder: Path) -> list[Reject]:
    return [r for file in sorted(folder.glob("*.jsonl")) for r in read_rejects(file)]


def test_rejects_are_written_and_read_back(tmp_path: Path) -> None:
    Quarantine(tmp_path / "new", 0, {}, 10).add([reject(1), reject(2)])
    assert rejects_in(tmp_path / "new") == [reject(1), reject(2)]


def test_a_resumed_run_writes_its_rejects_once(tmp_path: Path) -> None:
    Quarantine(tmp_path, 0, {}, 10).add([reject(1)])
    Quarantine(tmp_path, 0, {}, 10).add([reject(1), reject(2)])
    assert rejects_in(tmp_path) == [reject(1), reject(2)]


def test_a_reject_that_moved_to_another_rank_is_not_written_again(tmp_path: Path) -> None:
    Quarantine(tmp_path, 1, {}, 10).add([reject(1)])
    Quarantine(tmp_path, 0, {}, 10).add([reject(1)])
    assert rejects_in(tmp_path) == [reject(1)]


def test_a_line_that_a_crash_cut_short_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "quarantine-0.jsonl"
    file.write_text(reject(1).to_line() + reject(2).to_line()[:20])
    Quarantine(tmp_path, 0, {}, 10).add([reject(2)])
    assert rejects_in(tmp_path) == [reject(1), reject(2)]


@pytest.mark.parametrize("damage", [b"{}", b"17", b'{"source": "s"}', b"reject", b"\xff\xfe", b"\0" * 9])
def test_a_damaged_line_is_skipped_and_logged(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "quarantine-0.jsonl"
    lines = [reject(1).to_line().encode(), damage + b"\n", reject(2).to_line().encode()]
    file.write_bytes(b"".join(lines))
    Quarantine(tmp_path, 0, {}, 10).add([reject(2), reject(3)])
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{file}, line 2: not a quarantined sample (")
    assert "\n" not in record.getMessage()
    assert rejects_in(tmp_path) == [reject(1), reject(2), reject(3)]


def test_all_ranks_and_the_manifest_count_against_the_budget(tmp_path: Path) -> None:
    ranks = [Quarantine(tmp_path, rank, {"missing_file": 2}, 100) for rank in range(2)]
    ranks[0].add([reject(1)])
    assert ranks[1].over_budget(0.03, [rank.found for rank in ranks]) is None
    ranks[1].add([reject(2)])
    error = ranks[0].over_budget(0.03, [rank.found for rank in ranks])
    assert error is not None
    assert error.startswith("4 of 100 records cannot be used (2 bad_image, 2 missing_file); see ")
    assert "data.bad_sample_budget" in error


def test_rejects_in_a_bucket_survive_a_failure_and_are_known_to_the_next_ranks(bucket: str) -> None:
    with suppress(ZeroDivisionError), Quarantine(bucket, 0, {}, 1000) as quarantine:
        quarantine.add([reject(1)])
        raise ZeroDivisionError
    resumed = Quarantine(bucket, 1, {}, 1000)
    resumed.add([reject(1), reject(2)])
    resumed.save()
    lines = [read_text(location(bucket) / f"quarantine-{rank}.jsonl") for rank in range(2)]
    assert lines == [reject(1).to_line(), reject(2).to_line()]


def test_one_budget_holds_for_all_ranks_of_a_bucket(bucket: str) -> None:
    ranks = [Quarantine(bucket, rank, {}, 1000) for rank in range(2)]
    for number, rank in enumerate(ranks):
        rank.add(reject(10 * number + each) for each in range(6))
    found = [rank.found for rank in ranks]
    errors = [rank.over_budget(0.01, found) for rank in ranks]
    assert errors[0] == errors[1]
    assert str(errors[0]).startswith("12 of 1000 records cannot be used (12 bad_image)")


@pytest.mark.parametrize("budget", [0.0, 0.5])
def test_no_rejects_are_within_any_budget(tmp_path: Path, budget: float) -> None:
    assert Quarantine(tmp_path, 0, {}, 10).over_budget(budget) is None
